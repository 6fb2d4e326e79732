"""Keeping the whole path of Gaussian steps close to that of a reference policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser


@register_regulariser("path")
@dataclass(frozen=True)
class PathKl(Regulariser):
    """weight * mean of sum_k KL(N_new_k || N_ref_k) along the sampled paths, in nats. On paths of the policy
    itself it is the KL of path measures, an upper bound of the actions' KL (GSB-MDPO, arXiv 2603.21621, eq. 22); the
    paths here are those of the acting policy, so it is that at an iteration's start and close to it afterwards.

    It grows with the number of steps and shrinks with their noise, so a weight does not carry over to other settings.
    Over `policyflow`, whose draws each estimate the one decision at the end, it is their mean.
    """

    needs: ClassVar[Need | None] = "steps"
    needs_reference: ClassVar[bool] = True

    def __call__(self, terms: Terms) -> jax.Array:
        """weight * path KL."""
        new, reference = terms.new, jax.lax.stop_gradient(terms.reference)
        assert reference is not None and new.steps is not None and reference.steps is not None, "steps and a reference"
        cost = jnp.where(new.known & reference.known, new.steps.divergence(reference.steps), 0.0)
        return self.weight * new.steps.total(cost).mean()
