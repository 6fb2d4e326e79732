"""Flow policy optimization: PPO whose log ratio is a difference of CFM losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, clamp_straight_through, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.types import Metrics, Scores


def spo_penalty(ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """-(rho A - |A| (rho - 1)^2 / (2 eps)), elementwise (FPO++, arXiv 2602.02481, eqs. 9-13).

    The gradient in rho is -(A - |A| (rho - 1) / eps): it vanishes at rho = 1 + sign(A) eps and pulls the ratio back
    from beyond, where the gradient of PPO's clip is zero.

    Args:
        ratio: (...) rho > 0; it is squared, so bound the log ratio.
        advantage: broadcasts against ratio.
        clip_epsilon: eps > 0.
    """
    return -(ratio * advantage - jnp.abs(advantage) * jnp.square(ratio - 1.0) / (2.0 * clip_epsilon))


def aspo(ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """FPO++'s asymmetric trust region, elementwise: PPO's clip for A >= 0, `spo_penalty` for A < 0."""
    clipped = ppo_clip(ratio, advantage, clip_epsilon)
    return jnp.where(advantage >= 0.0, clipped, spo_penalty(ratio, advantage, clip_epsilon))


@register_objective("fpo")
@dataclass(frozen=True)
class Fpo(Objective):
    """Flow policy optimization: a clipped ratio of CFM losses (arXiv 2507.21053, eqs. 8-16)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Without the clamp, long runs end in a runaway of the bound's tail, which opens on bad actions.
        "cpu": {
            "objective.clip_epsilon": 0.15,
            "objective.negative_advantages": "spo",
            "objective.log_ratio_clip": 3.0,
            "objective.negative_loss_clamp": 3.0,
            "beta": 0.05,
        }
    }

    clip_epsilon: float = 0.05
    """half width of the ratio's trust region, > 0"""
    ratio: Literal["average", "per-draw"] = "average"
    """average the losses of the N draws before the exponential, or use one ratio per draw"""
    negative_advantages: Literal["clip", "spo"] = "clip"
    """trust region for samples with negative advantage: PPO's clip, or FPO++'s quadratic pull towards it (ASPO)"""
    log_ratio_clip: float | None = None
    """bound on |log ratio| before the exponential, gradient kept (straight-through), > 0; none: unbounded"""
    negative_loss_clamp: float | None = None
    """a sample with negative advantage and a CFM loss above this gets no policy gradient (beta's regulariser still
    applies), > 0; none: no limit"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.positive("clip_epsilon", "log_ratio_clip", "negative_loss_clamp")
        bounded = self.negative_advantages != "spo" or self.log_ratio_clip is not None
        check.require(bounded, "negative_advantages", "clip, or with --objective.log-ratio-clip (3, say): it squares")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho A, clip(rho) A) with rho = exp(CFM loss_old - CFM loss_new), averaged over draws before the
        exponential (Alg. 1, line 9, and the code's default), or one per draw, which is an upper bound of it by Jensen's
        inequality.

        `negative_loss_clamp`: for A < 0, a sample whose mean loss, old or new, exceeds it has no gradient, as beyond
        FPO++'s clamp on the loss: once its bound is loose, loosening it further no longer makes the action less likely.

        Args:
            new, old: (..., N) CFM losses on the same (t, eps) draws.
            advantage: (...).
        """
        del reference
        chex.assert_equal_shape([new.loss, old.loss])
        chex.assert_shape(new.loss, (*advantage.shape, None))
        if self.negative_loss_clamp is not None:
            highest = jnp.maximum(old.mean(), jax.lax.stop_gradient(new.mean()))
            advantage = jnp.where((advantage < 0.0) & (highest > self.negative_loss_clamp), 0.0, advantage)
        if self.ratio == "average":
            log_ratio, weight = (old.mean() - new.mean())[..., None], jnp.ones(1)
        else:
            log_ratio, weight = old.loss - new.loss, new.weight
        bounded = log_ratio
        if self.log_ratio_clip is not None:
            bounded = clamp_straight_through(log_ratio, -self.log_ratio_clip, self.log_ratio_clip)
        surrogate = aspo if self.negative_advantages == "spo" else ppo_clip
        losses = surrogate(exp_bounded(bounded), advantage[..., None], self.clip_epsilon)
        return (losses @ weight).mean(), ratio_metrics(log_ratio, self.clip_epsilon)
