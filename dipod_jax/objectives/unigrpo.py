"""UniGRPO: d1's loss with one ratio a noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dipod_jax.objectives.base import register_objective
from dipod_jax.objectives.d1 import D1


@register_objective("unigrpo")
@dataclass(frozen=True)
class UniGrpo(D1):
    """UniGRPO: one ratio a noise level, the levels spread evenly over all, plus k3 to a reference (MMaDA,
    arXiv 2505.15809).

    The paper takes one level in each of its inner updates, in turn; here every update has all N of them, an action's
    stratified draws. The width of the clip and the weight and kind of the KL are not the paper's, which were not found.
    On tokens: scores of each of `stratified` masks, over their length.
    """

    policy: ClassVar[str] = "flow"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"objective.clip_epsilon": clip, "policy.draws": "stratified", "learning.reference_decay": 0.0}
        for name, clip in (("paper", 0.05), ("cpu", 0.15))
    }

    clip_epsilon: float = 0.2
    """half width of each ratio's trust region, > 0"""
    kl_weight: float | None = 0.01
    """weight of k3 to the reference policy, >= 0; none: no KL and no reference policy"""
