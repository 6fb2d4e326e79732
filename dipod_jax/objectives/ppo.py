"""The clipped surrogate, over any per-draw loss that stands for a negative log-likelihood."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def ppo_clip(ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise (PPO, arXiv 1707.06347, eq. 7).

    Args:
        ratio: (...) rho = pi_new / pi_old or its surrogate, >= 0.
        advantage: broadcasts against ratio.
        clip_epsilon: eps > 0.

    Returns:
        (...) losses to minimise. Past the clip in the direction that the advantage favours, the gradient is 0.
    """
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon) * advantage)


def ppo_loss(loss_new: jax.Array, loss_old: jax.Array, advantage: jax.Array, *, clip_epsilon: ArrayLike) -> jax.Array:
    """PPO on an exact likelihood: rho = exp(log pi_new - log pi_old).

    Args:
        loss_new, loss_old: (..., 1) -log pi of the stored action under the current and the acting parameters.
        advantage: (...).
        clip_epsilon: eps > 0.

    Returns:
        Scalar mean loss; it holds no entropy bonus.
    """
    chex.assert_equal_shape([loss_new, loss_old])
    chex.assert_shape(loss_new, (*advantage.shape, 1))
    return ppo_clip(jnp.exp(loss_old - loss_new), advantage[..., None], clip_epsilon).mean()
