"""DiPOD: keep the bound tight during training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def dipod_loss(loss_new: jax.Array, beta: ArrayLike) -> jax.Array:
    """beta * mean CFM loss of the rollout's own samples, to be added to any objective (DiPOD, arXiv 2606.13795, eq. 7).

    Maximising beta * ELBO on samples of the current policy is self-distillation: it changes the bound, not (to first
    order, for a perfect sampler) the policy. Every sample counts, whatever its advantage; nothing is clipped and there
    is no ratio. At rho = 1 it shifts the advantage: the gradient becomes that of (A + beta) ELBO.

    Args:
        loss_new: (..., N) per-draw losses under the current parameters, on the draws that the objective uses.
        beta: >= 0.
    """
    return jnp.asarray(beta) * loss_new.mean()
