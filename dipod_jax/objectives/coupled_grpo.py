"""Coupled-GRPO: d1's loss on scores that mask each token in three ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dipod_jax.objectives.base import register_objective
from dipod_jax.objectives.d1 import D1


@register_objective("coupled-grpo")
@dataclass(frozen=True)
class CoupledGrpo(D1):
    """Coupled-GRPO: one ratio per token; each token is scored with everything masked, and once in a pair of
    complementary masks (DiffuCoder, arXiv 2506.20639).

    On tokens it uses scores per token at `coupled` masks. On actions each dimension is a token, scored at t = 1 and at
    the pair t, 1 - t with the same noise. The paper's clip width and KL weight were not found; the defaults are this
    library's.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"policy.passes": "coupled", "learning.reference_decay": 0.0} for name in ("paper", "cpu")
    }

    clip_epsilon: float = 0.2
    """half width of each ratio's trust region, > 0"""
    kl_weight: float | None = 0.01
    """weight of k3 to the reference policy, >= 0; none: no KL and no reference policy"""
