"""Keeping a policy's whole path of Gaussian steps close to a reference policy's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser


@register_regulariser("path")
@dataclass(frozen=True)
class PathKl(Regulariser):
    """weight * mean of sum_k KL(N_new_k || N_ref_k) along the paths that were taken, in nats: a KL of path measures,
    which bounds that of actions from above (GSB-MDPO, arXiv 2603.21621, eq. 22).

    It grows with the number of steps and falls with their noise: a weight does not carry over to others.
    """

    needs: ClassVar[Need | None] = "steps"

    def __call__(self, terms: Terms) -> jax.Array:
        """weight * path KL."""
        new, reference = terms.new, jax.lax.stop_gradient(terms.reference)
        assert reference is not None and new.steps is not None and reference.steps is not None, "steps and a reference"
        cost = jnp.where(new.known & reference.known, new.steps.divergence(reference.steps), 0.0)
        return self.weight * cost.sum(-1).mean()
