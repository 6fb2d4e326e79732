"""Flow policy optimization and its asymmetric variant."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.objectives.ppo import ppo_clip


def spo_penalty(ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """-(rho A - |A| (rho - 1)^2 / (2 eps)), elementwise (FPO++, arXiv 2602.02481, eqs. 9-13).

    The gradient in rho is -(A - |A| (rho - 1) / eps): it vanishes at rho = 1 + sign(A) eps and pulls back from beyond,
    where PPO's clip lets go.

    Args:
        ratio: (...) rho > 0; its square must be finite, so `log_ratio` needs a bound.
        advantage: broadcasts against ratio.
        clip_epsilon: eps > 0.
    """
    return -(ratio * advantage - jnp.abs(advantage) * jnp.square(ratio - 1.0) / (2.0 * clip_epsilon))


def log_ratio(
    loss_new: jax.Array, loss_old: jax.Array, *, average_draws: bool, log_ratio_clip: float | None
) -> jax.Array:
    """log rho = loss_old - loss_new, averaged over draws or one per draw, and bounded before it is exponentiated.

    The bound is straight-through (value clipped, gradient kept): a sample that went too far must still be pulled back.
    FPO++ has it on the upper side only.

    Args:
        loss_new, loss_old: (..., N).
        average_draws: mean over N, shape (..., 1), else (..., N).
        log_ratio_clip: bound on |log rho|, None for none.
    """
    value = loss_old - loss_new
    if average_draws:
        value = value.mean(-1, keepdims=True)
    if log_ratio_clip is None:
        return value
    return value + jax.lax.stop_gradient(jnp.clip(value, -log_ratio_clip, log_ratio_clip) - value)


def fpo_loss(
    loss_new: jax.Array,
    loss_old: jax.Array,
    advantage: jax.Array,
    *,
    clip_epsilon: ArrayLike,
    average_draws: bool = True,
    asymmetric: bool = False,
    log_ratio_clip: float | None = None,
    negative_loss_clamp: float | None = None,
) -> jax.Array:
    """FPO: PPO's clipped surrogate with rho = exp(CFM loss_old - CFM loss_new) (arXiv 2507.21053, eqs. 8-16).

    `average_draws` averages the losses before the exponential (Alg. 1, line 9, and the code's default); else one ratio
    a draw, which bounds it from above by Jensen. `asymmetric` is FPO++'s ASPO: PPO's clip for A >= 0, `spo_penalty`
    below.

    Args:
        loss_new, loss_old: (..., N) CFM losses on the same (t, eps) draws, under current and acting parameters.
        advantage: (...).
        clip_epsilon: eps > 0.
        log_ratio_clip: straight-through bound on |log rho|; the FPO code has none where draws are averaged.
        negative_loss_clamp: for A < 0, a sample whose mean loss, old or new, is over this has no gradient, as beyond
            FPO++'s clamp of the loss: an action is not made less likely any more by loosening a bound that is off.

    Returns:
        Scalar mean loss. It holds no ELBO term: see `dipod`.
    """
    chex.assert_equal_shape([loss_new, loss_old])
    chex.assert_shape(loss_new, (*advantage.shape, None))
    if negative_loss_clamp is not None:
        highest = jnp.maximum(loss_old.mean(-1), jax.lax.stop_gradient(loss_new.mean(-1)))
        advantage = jnp.where((advantage < 0.0) & (highest > negative_loss_clamp), 0.0, advantage)
    ratio = jnp.exp(log_ratio(loss_new, loss_old, average_draws=average_draws, log_ratio_clip=log_ratio_clip))
    advantage = advantage[..., None]
    clipped = ppo_clip(ratio, advantage, clip_epsilon)
    if not asymmetric:
        return clipped.mean()
    return jnp.where(advantage >= 0.0, clipped, spo_penalty(ratio, advantage, clip_epsilon)).mean()
