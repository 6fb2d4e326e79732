"""d1 (diffu-GRPO): a ratio for each token of a one-step likelihood, and a KL to a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.regularisers.k2 import kl_estimate, log_ratio_to
from dipod_jax.types import Metrics, Scores


@register_objective("d1")
@dataclass(frozen=True)
class D1(Objective):
    """d1: PPO's clip with one ratio per token, plus each token's k3 estimate of the KL to a reference policy
    (diffu-GRPO's code).

    On tokens it uses `one-step` scores per token, with everything masked. On actions each dimension is a token and its
    score is the velocity error at t = 1, where the network sees nothing of the action: a mean-field fit, not a
    likelihood of the flow. The presets take the policy of the last iteration as reference.
    """

    policy: ClassVar[str] = "dimension-flow"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"policy.passes": "one-step", "learning.reference_decay": 0.0} for name in ("paper", "cpu")
    }

    clip_epsilon: float = 0.5
    """half width of each ratio's trust region, > 0"""
    kl_weight: float | None = 0.04
    """weight of the k3 estimate of the KL to the reference policy, >= 0; none: no KL and no reference policy"""

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight is not None

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("clip_epsilon")
        check.number("kl_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """mean_{B,N} [-min(rho_n A, clip(rho_n) A) + kl_weight (exp(-D_n) - 1 + D_n)], rho_n = exp(l_old_n - l_new_n),
        D_n = l_ref_n - l_new_n.

        Args:
            new, old, reference: (..., N) a loss for each token, dimension or draw.
            advantage: (...).
        """
        log_ratio = old.loss - new.loss
        loss = (ppo_clip(exp_bounded(log_ratio), advantage[..., None], self.clip_epsilon) @ new.weight).mean()
        metrics = ratio_metrics(log_ratio, self.clip_epsilon)
        if self.kl_weight is None:
            return loss, metrics
        assert reference is not None, "a config with a KL keeps a reference"
        kl = (kl_estimate(log_ratio_to(reference, new, per_draw=True), "k3") @ new.weight).mean()
        return loss + self.kl_weight * kl, metrics | {"reference_kl": kl}

    def divergence(self, new: Scores, old: Scores) -> jax.Array:
        """(...) k3 of each ratio, averaged over the ratios."""
        return kl_estimate(new.loss - old.loss, "k3") @ new.weight
