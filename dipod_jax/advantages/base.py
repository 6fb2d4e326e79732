"""The inputs and outputs of an advantage estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.registry import Registry


class Segment(NamedTuple):
    """Consecutive steps; leading axes (T, ...)."""

    obs: jax.Array  # (T, ..., O)
    next_obs: jax.Array  # (T, ..., O) before any auto-reset
    reward: jax.Array  # (T, ...)
    terminated: jax.Array  # (T, ...) bool
    truncated: jax.Array  # (T, ...) bool


class Estimate(NamedTuple):
    """Leading axes (T, ...)."""

    advantage: jax.Array  # not normalised
    value_target: jax.Array
    value_weight: jax.Array  # factor on the value error, 0 where there is no target


@dataclass(frozen=True)
class AdvantageEstimator:
    """Advantages and value targets of a segment. A subclass under `ADVANTAGES.register(name)` is a new estimator."""

    name: ClassVar[str]
    per_minibatch: ClassVar[bool] = False
    """whether it is computed in every minibatch with the current critic, from segments that stay together"""

    def __call__(
        self,
        segment: Segment,
        value: jax.Array,
        value_fn: Callable[[jax.Array], jax.Array],
        *,
        discount: ArrayLike,
        gae_lambda: ArrayLike,
    ) -> Estimate:
        """Estimate.

        Args:
            segment: T steps.
            value: (T, ...) `value_fn(segment.obs)`, already computed by the caller.
            value_fn: obs (..., O) -> (...).
            discount, gae_lambda: in [0, 1].
        """
        raise NotImplementedError


ADVANTAGES: Registry[AdvantageEstimator] = Registry("learning.advantages")


def standardise(advantage: jax.Array) -> jax.Array:
    """(A - mean) / (std + 1e-8), over all entries."""
    deviation = advantage - advantage.mean()
    return deviation / (jnp.sqrt(jnp.square(deviation).mean()) + 1e-8)
