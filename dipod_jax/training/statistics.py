"""Running mean and variance of observations, which no single observation can ruin."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.types import is_measured

MIN_STD = 1e-6
# How far from a feature's centre a value counts whole, in the feature's unit and in its deviations. What is further off
# counts as if it stood there: a sensor that has been silent may speak, a simulation that explodes moves little.
REACH, REACH_IN_STDS = 100.0, 10.0
SAMPLE = 256  # rows of a batch that its centre and spread are taken from
GOLDEN_RATIO = 0.6180339887498949


@partial(jax.tree_util.register_dataclass, data_fields=["count", "mean", "sum_of_squares"], meta_fields=["clip"])
@dataclass(frozen=True)
class RunningStatistics:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    count: jax.Array
    """()"""
    mean: jax.Array
    """(O,)"""
    sum_of_squares: jax.Array
    """(O,), of deviations from the mean"""
    clip: float | None = field(default=None, kw_only=True)
    """bound on the size of a normalised observation; part of the structure, not of the data. None: there is none"""

    @classmethod
    def zeros(cls, size: int, *, clip: float | None = None) -> RunningStatistics:
        """Statistics of nothing; `normalise` then changes nothing within `clip`."""
        return cls(jnp.zeros(()), jnp.zeros(size), jnp.zeros(size), clip=clip)

    @property
    def std(self) -> jax.Array:
        """(O,) population standard deviation; 1 before the first update."""
        variance = self.sum_of_squares / jnp.maximum(self.count, 1.0)
        return jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(variance), MIN_STD), 1.0)

    def update(self, batch: jax.Array) -> RunningStatistics:
        """Merge a batch (..., O). Observations that are not finite or over 10^10 are left out. Values are clipped to a
        distance from the feature's median: the largest of 100, 10 deviations of the batch and 10 deviations of all
        earlier observations."""
        over_rows = tuple(range(batch.ndim - 1))
        measured = is_measured(batch).all(-1, keepdims=True)
        centre, reach = self._plausible(batch)
        batch = jnp.where(measured, jnp.clip(batch, centre - reach, centre + reach), 0.0)
        count = measured.sum().astype(jnp.float32)
        mean = batch.sum(over_rows) / jnp.maximum(count, 1.0)
        squares = jnp.where(measured, jnp.square(batch - mean), 0.0).sum(over_rows)
        new_count = self.count + count
        share = count / jnp.maximum(new_count, 1.0)
        delta = mean - self.mean
        return RunningStatistics(
            count=new_count,
            mean=self.mean + delta * share,
            sum_of_squares=self.sum_of_squares + squares + jnp.square(delta) * self.count * share,
            clip=self.clip,
        )

    def _plausible(self, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Centre and reach (O,): the median of some rows, and the larger of 100, 10 deviations as the rows' quantiles
        have them (16 % to 84 %, of a normal two deviations), and 10 deviations of all observations before."""
        rows = np.arange(SAMPLE) * GOLDEN_RATIO % 1.0 * np.prod(batch.shape[:-1])  # evenly over all axes
        sample = batch[np.unravel_index(rows.astype(int), batch.shape[:-1])]
        sample = jnp.where(is_measured(sample), sample, jnp.nan)
        low, centre, high = jnp.nanquantile(sample, jnp.array([0.16, 0.5, 0.84]), axis=0)
        spread = jnp.nan_to_num(jnp.maximum((high - low) / 2.0, jnp.where(self.count > 0, self.std, 0.0)))
        return jnp.where(jnp.isnan(centre), self.mean, centre), jnp.maximum(REACH, REACH_IN_STDS * spread)

    def normalise(self, obs: jax.Array) -> jax.Array:
        """(obs - mean) / std, (..., O), within [-clip, clip]."""
        normalised = (obs - self.mean) / self.std
        return normalised if self.clip is None else jnp.clip(normalised, -self.clip, self.clip)
