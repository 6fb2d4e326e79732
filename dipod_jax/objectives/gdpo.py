"""GDPO: the ELBO by quadrature over time, one ratio a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dipod_jax.objectives.base import register_objective
from dipod_jax.objectives.espo import Espo


@register_objective("gdpo")
@dataclass(frozen=True)
class Gdpo(Espo):
    """GDPO: ESPO's loss with each ELBO a Gauss-Legendre sum over time, only the noise being random (official code).

    The loss is that of the weighted mean over draws, whatever their weights; the presets place them at the nodes, three
    as the scripts do (the default of its code is two). The nodes are the same for every action: at other times of the
    sampler the network is not trained, which is the method's. On tokens: sequence scores over their length.
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
    """estimator of the KL to the reference policy, where it has a weight"""
    kl_weight: float | None = None
    """weight of the KL, >= 0, of log ratios in the scores' own unit; none: no KL and no reference policy"""
