"""GenPO: PPO on the exact likelihood of an invertible coupled flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.objectives.dppo import clipped
from dipod_jax.types import Metrics, Scores


@register_objective("genpo")
@dataclass(frozen=True)
class Genpo(Objective):
    """GenPO (arXiv 2505.18763): a clipped ratio of the density of a pair of actions, of which the mean is executed, and
    a penalty on their distance.

    The Jacobian of its coupled sampler is constant, so none is computed, where published code takes a determinant. That
    code adapts the learning rate to a KL (`--learning.kl-target .01`), estimated by a quantity that can be negative
    where k3 is used here; its entropy bonus has weight 0 and is left out.
    """

    policy: ClassVar[str] = "coupled-flow"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"learning.policy_gradient_clip": 1.0, "learning.critic_gradient_clip": 1.0}
    }

    clip_epsilon: float = 0.2
    """half width of the ratio's trust region, > 0"""
    compression_weight: float = 0.01
    """weight of the mean distance between the two halves of a pair, >= 0, in units of the pre-tanh action"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("clip_epsilon")
        check.number("compression_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho A, clip(rho) A) + compression_weight mean |z - y|, log rho = (|w_old|^2 - |w_new|^2) / 2.

        Args:
            new, old: (..., 1) -log density of the pair (z, y) = f(w).
            advantage: (...).
        """
        del reference
        assert new.penalty is not None, "the policy acts by pairs"
        log_ratio = old.mean() - new.mean()
        loss = clipped(log_ratio, advantage, self.clip_epsilon).mean()
        distance = new.penalty.mean()
        metrics = ratio_metrics(log_ratio, self.clip_epsilon) | {"pair_distance": distance}
        return loss + self.compression_weight * distance, metrics
