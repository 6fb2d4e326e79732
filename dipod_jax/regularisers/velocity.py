"""Keeping the velocity of a flow close to that of a reference policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser
from dipod_jax.types import FieldScores

VelocityWeighting = Literal["uniform", "elbo"]
TIME_RANGE = (0.01, 0.99)  # AWM caps t at .99; below .01 its weight, 1 / t, would have no bound


def velocity_kl(new: FieldScores, reference: FieldScores, weighting: VelocityWeighting) -> jax.Array:
    """(...) mean over draws and dimensions of (v_new - v_ref)^2 at the same x_t (AWM's code), times 1 for `uniform` and
    1 / (2 sigma_t^2), sigma_t = .7 sqrt(t / (1 - t)), for `elbo`. No gradient flows into the reference.

    Args:
        new, reference: at the same draws.
    """
    squares = jnp.square(new.velocity - jax.lax.stop_gradient(reference.velocity)).mean(-1)  # (..., N)
    if weighting == "elbo":
        t = jnp.clip(new.time, *TIME_RANGE)
        squares = squares * (1.0 - t) / (2.0 * 0.7**2 * t)
    return new.mean(squares)


@register_regulariser("velocity")
@dataclass(frozen=True)
class VelocityKl(Regulariser):
    """weight * mean (v_new - v_ref)^2 at the draws of the bound (AWM): a KL to a reference policy in velocity space. It
    sees only the times at which the bound is evaluated.
    """

    needs: ClassVar[Need | None] = "field"
    needs_reference: ClassVar[bool] = True

    weighting: VelocityWeighting = "uniform"
    """uniform: all draws equally; elbo: by (1 - t) / (.98 t), as in AWM's variant of that name"""

    def __call__(self, terms: Terms) -> jax.Array:
        """weight * mean over the batch."""
        assert terms.reference is not None, "a config with this regulariser keeps a reference"
        new, reference = terms.new.field, terms.reference.field
        assert new is not None and reference is not None, "the config's checks refuse this over a policy without"
        return self.weight * velocity_kl(new, reference, self.weighting).mean()
