"""Brax's variant of generalised advantage estimation, which FPO's code uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.advantages.base import ADVANTAGES, AdvantageEstimator, Estimate, Segment


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
    """Truncated steps get advantage 0, and the advantage bootstraps from the next lambda-return: A_t = r_t + gamma (1 -
    terminated_t) vs_{t+1} - V(obs_t).

    Args:
        reward, value: (T, ...).
        last_value: (...) value of the observation after the last step.
        terminated, truncated: (T, ...) bool.
        discount, gae_lambda: in [0, 1].

    Returns:
        Advantages (T, ...), 0 where truncated, and value targets vs (T, ...), which the loss must ignore there.
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


@ADVANTAGES.register("minibatch")
@dataclass(frozen=True)
class MinibatchGae(AdvantageEstimator):
    """`brax_gae` computed in every minibatch with the current critic; truncated steps are ignored."""

    per_minibatch: ClassVar[bool] = True

    def __call__(
        self,
        segment: Segment,
        value: jax.Array,
        value_fn: Callable[[jax.Array], jax.Array],
        *,
        discount: ArrayLike,
        gae_lambda: ArrayLike,
    ) -> Estimate:
        last_value = value_fn(segment.next_obs[-1])
        ends = segment.terminated, segment.truncated
        advantage, target = brax_gae(segment.reward, value, last_value, *ends, discount=discount, gae_lambda=gae_lambda)
        return Estimate(advantage, target, 1.0 - segment.truncated.astype(target.dtype))
