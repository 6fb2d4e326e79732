"""Generalised advantage estimation (arXiv 1506.02438), which distinguishes termination from truncation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.advantages.base import ADVANTAGES, AdvantageEstimator, Estimate, Segment


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


@ADVANTAGES.register("iteration")
@dataclass(frozen=True)
class IterationGae(AdvantageEstimator):
    """`gae` once per iteration over the whole rollout, bootstrapping from the true next observation."""

    def __call__(
        self,
        segment: Segment,
        value: jax.Array,
        value_fn: Callable[[jax.Array], jax.Array],
        *,
        discount: ArrayLike,
        gae_lambda: ArrayLike,
    ) -> Estimate:
        next_value = value_fn(segment.next_obs)
        ends = segment.terminated, segment.truncated
        advantage, target = gae(segment.reward, value, next_value, *ends, discount=discount, gae_lambda=gae_lambda)
        return Estimate(advantage, target, jnp.ones_like(target))
