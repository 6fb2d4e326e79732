"""GDPO: the ELBO by quadrature over time, and one ratio per sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dipod_jax.objectives.base import register_objective
from dipod_jax.objectives.espo import Espo


@register_objective("gdpo")
@dataclass(frozen=True)
class Gdpo(Espo):
    """GDPO: ESPO's loss with each ELBO computed by Gauss-Legendre quadrature over time, so that only the noise is
    random (official code).

    The loss uses the weighted mean over draws; the presets place them at the nodes, three as in its scripts (its code
    defaults to two). The nodes are the same for every action, so the network is not trained at the sampler's other
    times: that is part of the method. On tokens it uses sequence scores divided by the length.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "objective.clip_epsilon_low": clip,
            "objective.clip_epsilon_high": clip,
            "policy.draws": "gauss-legendre",
            "policy.num_draws": 3,
        }
        for name, clip in (("paper", 0.05), ("cpu", 0.15))
    }

    clip_epsilon_low: float = 0.5
    """the ratio's trust region is [1 - this, 1 + clip_epsilon_high]; > 0, at most 1"""
    clip_epsilon_high: float = 0.5
    """see clip_epsilon_low; > 0"""
    kl: Literal["k2", "k1", "k3"] = "k3"
    """estimator of the KL to the reference policy, if it has a weight"""
    kl_weight: float | None = None
    """weight of the KL, >= 0, for log ratios in the unit of the scores; none: no KL and no reference policy"""
