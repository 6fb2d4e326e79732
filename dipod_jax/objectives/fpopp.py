"""FPO++: one ratio a draw, an asymmetric trust region, and clamps that no outlier gets past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, clamp_straight_through, ratio_metrics, register_objective
from dipod_jax.objectives.fpo import aspo
from dipod_jax.types import Metrics, Scores

SCORE = {"policy.loss_form": "velocity", "policy.reduction": "sqrt"}


@register_objective("fpo++")
@dataclass(frozen=True)
class FpoPlusPlus(Objective):
    """FPO++: a ratio of velocity losses for each draw, PPO's clip for A > 0 and a quadratic pull for A < 0 (ASPO)
    (arXiv 2602.02481, eqs. 9-13).

    The presets take its loss (of the velocity, summed over d dimensions / sqrt(d)); `paper` its uniform t, its
    perturbed actions, advantages once a rollout and gradient clips as well. The sampler stays FPO's 10 steps, where
    the paper has 64, and the optimiser Adam, where it has AdamW and an average of the weights.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            **SCORE,
            "policy.draws": "monte-carlo",
            "policy.action_noise": 0.02,
            "learning.advantages": "iteration",
            "learning.advantage_clip": 100.0,
            "learning.policy_gradient_clip": 1.0,
            "learning.critic_gradient_clip": 1.0,
        },
        "cpu": SCORE,
    }

    clip_epsilon: float = 0.05
    """half width of each ratio's trust region, > 0"""
    loss_clamp: float | None = 20.0
    """CFM loss, old or new, above which a draw counts as this and has no gradient, > 0; none: unbounded"""
    negative_loss_clamp: float | None = 20.0
    """the same for new losses of samples of negative advantage alone, > 0; none: unbounded"""
    log_ratio_clip: float = 10.0
    """straight-through upper bound on the log ratio before the exponential, > 0; below it is not bounded"""

    def validate(self) -> None:
        Checked(self, "objective").positive("clip_epsilon", "loss_clamp", "negative_loss_clamp", "log_ratio_clip")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_{B,N} [A > 0 ? min(rho A, clip(rho) A) : rho A - |A| (rho - 1)^2 / (2 eps)], rho = exp(l_old - l_new).

        The clamp of the losses is a plain one, without gradient above; that of the log ratio keeps the gradient, so
        that a draw that ran away upwards is still pulled back. The code asks for A > 0 and the paper for A >= 0: at 0
        both branches and their gradients are 0.

        Args:
            new, old: (..., N) losses on the same draws. Both are clamped, so that the first ratio is 1 also beyond.
            advantage: (...).
        """
        del reference
        sign = advantage[..., None]
        loss_new, loss_old = (
            s.loss if self.loss_clamp is None else jnp.minimum(s.loss, self.loss_clamp) for s in (new, old)
        )
        if self.negative_loss_clamp is not None:
            loss_new = jnp.where(sign < 0.0, jnp.minimum(loss_new, self.negative_loss_clamp), loss_new)
        log_ratio = loss_old - loss_new
        ratio = jnp.exp(clamp_straight_through(log_ratio, None, self.log_ratio_clip))
        losses = aspo(ratio, sign, self.clip_epsilon)
        return (losses @ new.weight).mean(), ratio_metrics(log_ratio, self.clip_epsilon)

    def divergence(self, new: Scores, old: Scores) -> jax.Array:
        """(...) mean squared change of the predicted noise, ((1 - t) (v_new - v_old))^2, over draws and dimensions (its
        code, with a target of 1e-4): in units of the noise, not nats."""
        assert new.time is not None and new.velocity is not None and old.velocity is not None, "scores of a flow"
        change = (1.0 - new.time[..., None]) * (new.velocity - old.velocity)
        return jnp.square(change).mean(-1) @ new.weight
