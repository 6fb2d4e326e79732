"""FPO++: one ratio per draw, an asymmetric trust region, and clamps against outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, clamp_straight_through, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.fpo import aspo
from dipod_jax.types import Metrics, Scores

SCORE = {"policy.loss_form": "velocity", "policy.reduction": "sqrt"}


@register_objective("fpo++")
@dataclass(frozen=True)
class FpoPlusPlus(Objective):
    """FPO++: a ratio of velocity losses for each draw, PPO's clip for A > 0 and a quadratic pull for A < 0 (ASPO)
    (arXiv 2602.02481, eqs. 9-13).

    The presets use its loss (of the velocity, summed over the d dimensions and divided by sqrt(d)); `paper` also uses
    its uniform t, perturbed actions, advantages computed once per rollout, and gradient clipping. The sampler keeps
    FPO's 10 steps (the paper uses 64), 8 draws an action (16, on humanoids 32), and FPO's rate, discount and value
    coefficient; the optimiser is Adam (the paper uses AdamW and averages the weights).
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
    """the CFM loss of a draw, old or new, is clipped to this, without gradient above it, > 0; none: unbounded"""
    negative_loss_clamp: float | None = 20.0
    """the same, for new losses of samples with negative advantage only, > 0; none: unbounded"""
    log_ratio_clip: float = 10.0
    """upper bound on the log ratio before the exponential, gradient kept (straight-through), > 0; there is no lower
    bound"""

    def validate(self) -> None:
        Checked(self, "objective").positive("clip_epsilon", "loss_clamp", "negative_loss_clamp", "log_ratio_clip")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_{B,N} [A > 0 ? min(rho A, clip(rho) A) : rho A - |A| (rho - 1)^2 / (2 eps)], rho = exp(l_old - l_new).

        The losses are clipped without gradient; the clip of the log ratio keeps the gradient, so that a draw whose
        ratio has run away is still pulled back. The code tests A > 0 and the paper A >= 0; at A = 0 both branches and
        their gradients are 0.

        Args:
            new, old: (..., N) losses on the same draws. Both are clipped, so that the first ratio is 1 for clipped
                draws too.
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
        ratio = exp_bounded(clamp_straight_through(log_ratio, None, self.log_ratio_clip))
        losses = aspo(ratio, sign, self.clip_epsilon)
        return (losses @ new.weight).mean(), ratio_metrics(log_ratio, self.clip_epsilon)

    def divergence(self, new: Scores, old: Scores) -> jax.Array:
        """(...) mean squared change of the predicted noise, ((1 - t) (v_new - v_old))^2, over draws and dimensions (its
        code, with a target of 1e-4): in units of the noise, not nats."""
        assert new.field is not None and old.field is not None, "scores of a flow"
        change = (1.0 - new.field.time[..., None]) * (new.field.velocity - old.field.velocity)
        return new.field.mean(jnp.square(change).mean(-1))
