"""ESPO: one length-normalised ratio per sequence, and a KL to a reference policy whose gradient is correct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.regularisers.k2 import kl_estimate, log_ratio_to
from dipod_jax.types import Metrics, Scores


@register_objective("espo")
@dataclass(frozen=True)
class Espo(Objective):
    """ESPO: PPO's clip on the ratio of length-normalised ELBOs, plus a KL to a reference policy (arXiv 2512.03759).

    On actions the ratio is `fpo`'s average, with the number of dimensions for the length; what is new are the
    antithetic draws, which the presets use, and the KL. The presets take the policy of the last iteration as reference,
    since there is no pretrained one, and FPO's clip. On tokens it uses sequence scores divided by the length.
    """

    trust_region: ClassVar[tuple[str, ...]] = ("clip_epsilon_low", "clip_epsilon_high")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "objective.clip_epsilon_low": clip,
            "objective.clip_epsilon_high": clip,
            "policy.draws": "antithetic",
            "learning.reference_decay": 0.0,
        }
        for name, clip in (("paper", 0.05), ("cpu", 0.15))
    }

    clip_epsilon_low: float = 0.2
    """the ratio's trust region is [1 - this, 1 + clip_epsilon_high]; > 0, at most 1"""
    clip_epsilon_high: float = 0.2
    """see clip_epsilon_low; > 0"""
    kl: Literal["k2", "k1", "k3"] = "k2"
    """estimator of the KL to the reference policy; over a bound k1, also with its score term, takes kl_weight off
    beta, so that they exclude each other: its gradient is (1 + D) grad(log pi)"""
    kl_weight: float | None = 3e-3
    """weight of the KL, >= 0, for log ratios in the unit of the scores (ESPO's beta is this / d for a mean over d
    dimensions); none: no KL and no reference policy"""

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight is not None

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.number("clip_epsilon_low", high=1.0, open_low=True)
        check.positive("clip_epsilon_high")
        check.number("kl_weight")

    def check_beta(self, beta: float | str) -> None:
        what = f"k2 or k3 with --beta {beta}, off which k1 takes its weight"
        Checked(self, "objective").require(self.kl != "k1" or not self.kl_weight, "kl", what)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) + kl_weight mean KL, rho = exp(mean_n l_old - mean_n
        l_new) with the draws' weights.

        Args:
            new, old, reference: (..., N) losses at the same draws.
            advantage: (...).
        """
        log_ratio = old.mean() - new.mean()
        ratio = exp_bounded(log_ratio)
        clipped = jnp.clip(ratio, 1.0 - self.clip_epsilon_low, 1.0 + self.clip_epsilon_high)
        loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
        metrics = ratio_metrics(log_ratio, jnp.where(log_ratio > 0.0, self.clip_epsilon_high, self.clip_epsilon_low))
        if self.kl_weight is None:
            return loss, metrics
        assert reference is not None, "a config with a KL keeps a reference"
        kl = kl_estimate(log_ratio_to(reference, new), self.kl).mean()
        return loss + self.kl_weight * kl, metrics | {"reference_kl": kl}
