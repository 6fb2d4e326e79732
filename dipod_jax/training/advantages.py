"""Generalised advantage estimation (arXiv 1506.02438), with termination and truncation apart."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discount: ArrayLike,
    gae_lambda: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and value targets that bootstrap from the true next observation at a truncation.

    delta_t = r_t + gamma (1 - terminated_t) V(next_obs_t) - V(obs_t)
    A_t = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1}

    Args:
        reward, value: (T, ...).
        next_value: (T, ...) value of the observation before any auto-reset.
        terminated, truncated: (T, ...) bool.
        discount, gae_lambda: in [0, 1].

    Returns:
        Advantages A (T, ...) and value targets A + V (T, ...). Nothing is normalised.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * (1.0 - (terminated | truncated))

    def backward(advantage, inputs):
        delta_t, decay_t = inputs
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages, advantages + value


def brax_gae(
    reward: jax.Array,
    value: jax.Array,
    last_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    discount: ArrayLike,
    gae_lambda: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Brax's estimator, which FPO's code uses: truncated steps get advantage 0, and the target's successor is the
    lambda-return: A_t = r_t + gamma (1 - terminated_t) vs_{t+1} - V(obs_t).

    Args:
        reward, value: (T, ...).
        last_value: (...) value of the observation after the last step.
        terminated, truncated: (T, ...) bool.
        discount, gae_lambda: in [0, 1].

    Returns:
        Advantages (T, ...), 0 where truncated, and value targets vs (T, ...), to be left out of the loss there.
    """
    keep = 1.0 - truncated
    carry_on = discount * (1.0 - terminated)
    next_value = jnp.concatenate([value[1:], last_value[None]])
    delta = (reward + carry_on * next_value - value) * keep

    def backward(error, inputs):
        delta_t, decay_t = inputs
        error = delta_t + decay_t * error
        return error, error

    _, errors = jax.lax.scan(backward, jnp.zeros_like(last_value), (delta, carry_on * gae_lambda * keep), reverse=True)
    target = errors + value
    next_target = jnp.concatenate([target[1:], last_value[None]])
    return (reward + carry_on * next_target - value) * keep, target


def standardise(advantage: jax.Array, axis_name: str | None = None) -> jax.Array:
    """(A - mean) / (std + 1e-8), over all entries, and all shards of `axis_name` where that is given."""
    mean = _mean(advantage, axis_name)
    variance = _mean(jnp.square(advantage - mean), axis_name)
    return (advantage - mean) / (jnp.sqrt(variance) + 1e-8)


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x.mean() if axis_name is None else jax.lax.pmean(x.mean(), axis_name)
