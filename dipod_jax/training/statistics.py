"""Running mean and variance of observations."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MIN_STD = 1e-6


class RunningStatistics(NamedTuple):
    """Count, mean and sum of squared deviations, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    count: jax.Array  # ()
    mean: jax.Array  # (O,)
    sum_of_squares: jax.Array  # (O,), of deviations from the mean

    @classmethod
    def zeros(cls, size: int) -> RunningStatistics:
        """Statistics of nothing; `normalise` then changes nothing."""
        return cls(jnp.zeros(()), jnp.zeros(size), jnp.zeros(size))

    @property
    def std(self) -> jax.Array:
        """(O,) population standard deviation; 1 before the first update."""
        variance = self.sum_of_squares / jnp.maximum(self.count, 1.0)
        return jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(variance), MIN_STD), 1.0)

    def update(self, batch: jax.Array) -> RunningStatistics:
        """Merge a batch (..., O)."""
        batch = batch.reshape(-1, batch.shape[-1])
        count = batch.shape[0]
        mean = batch.mean(0)
        squares = jnp.square(batch - mean).sum(0)
        new_count = self.count + count
        delta = mean - self.mean
        return RunningStatistics(
            count=new_count,
            mean=self.mean + delta * count / new_count,
            sum_of_squares=self.sum_of_squares + squares + jnp.square(delta) * self.count * count / new_count,
        )

    def normalise(self, obs: jax.Array) -> jax.Array:
        """(obs - mean) / std, (..., O)."""
        return (obs - self.mean) / self.std
