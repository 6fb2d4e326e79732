"""DiPOD: keep the bound tight during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser


@register_regulariser("dipod")
@dataclass(frozen=True)
class Dipod(Regulariser):
    """beta * the mean negative bound of the rollout's own samples (DiPOD, arXiv 2606.13795, eq. 7); its weight is the
    option --beta.

    Maximising beta * ELBO on samples of the current policy is self-distillation: it changes the bound, not (to first
    order, for a perfect sampler) the policy. Every sample counts, whatever its advantage, with no ratio and no
    clipping. At rho = 1 it amounts to a shift of the advantage: the gradient becomes that of (A + beta) ELBO.
    """

    needs: ClassVar[Need | None] = "bound"

    def __call__(self, terms: Terms) -> jax.Array:
        """beta * mean(bound loss)."""
        bound = terms.new.bound
        assert bound is not None, "the config's checks refuse this over a policy without"
        return self.weight * bound.mean()
