"""UniGRPO: d1's loss with one ratio per noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dipod_jax.objectives.base import register_objective
from dipod_jax.objectives.d1 import D1


@register_objective("unigrpo")
@dataclass(frozen=True)
class UniGrpo(D1):
    """UniGRPO: one ratio per noise level, with levels spread evenly, plus a k3 estimate of the KL to a reference
    (MMaDA, arXiv 2505.15809).

    The paper uses one level in each inner update, in turn; here every update uses all N of them, the stratified draws
    of an action. The paper's clip width and its KL were not found; the defaults are this library's. On tokens it uses
    the score of each of the `stratified` masks, divided by the length.
    """

    policy: ClassVar[str] = "flow"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"objective.clip_epsilon": clip, "policy.draws": "stratified", "learning.reference_decay": 0.0}
        for name, clip in (("paper", 0.05), ("cpu", 0.15))
    }

    clip_epsilon: float = 0.2
    """half width of each ratio's trust region, > 0"""
    kl_weight: float | None = 0.01
    """weight of the k3 estimate of the KL to the reference policy, >= 0; none: no KL and no reference policy"""
