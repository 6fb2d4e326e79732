"""Log-likelihood of every sequence and its two bounds: exact, or estimated from masks as a method would see them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.bounds.any_order import elbo, eubo_per_token, log_order_mean
from dipod_jax.bounds.mask_draws import (
    MaskDraws,
    draw_losses,
    estimated_eubo_per_token,
    mask_draw_weights,
    sample_mask_draws,
)
from dipod_jax.toys.options import Estimator
from dipod_jax.toys.space import Space, token_log_probs

EUBO_FNS = {"spg": eubo_per_token, "renyi": log_order_mean}
_PLACEMENTS = {"gdpo-bernoulli": "quadrature"}  # the other estimators have the placement's name


class Bounds(NamedTuple):
    """Log-likelihood of every sequence and its two bounds, each (X,).

    The same tuple carries the weights of a linear combination of the three (a cotangent).
    """

    log_prob: jax.Array
    elbo: jax.Array
    eubo: jax.Array

    @property
    def prob(self) -> jax.Array:
        """pi, (X,)."""
        return jnp.exp(self.log_prob)

    @property
    def lower_gap(self) -> jax.Array:
        """D^L = log pi - ELBO >= 0, (X,)."""
        return self.log_prob - self.elbo

    @property
    def upper_gap(self) -> jax.Array:
        """D^U = EUBO - log pi, (X,); never negative where the EUBO is a bound."""
        return self.eubo - self.log_prob


def all_bounds(conditionals: jax.Array, space: Space, eubo: str, order: jax.Array | float) -> Bounds:
    """Log-likelihood, ELBO and the chosen EUBO of every sequence.

    Args:
      conditionals: (Z, L, V) log-probabilities.
      space: tables of the same L and V.
      eubo: `spg`, per token, an upper bound for order >= L; or `renyi`, over orders, one for every order >= 1.
      order: b >= 1 of the EUBO.

    Returns:
      Bounds, each (X,).
    """
    log_probs = token_log_probs(conditionals, space)
    return Bounds(log_order_mean(log_probs), elbo(log_probs), EUBO_FNS[eubo](log_probs, order))


def mask_draws(key: jax.Array, estimator: Estimator, num_draws: int, space: Space) -> tuple[MaskDraws, jax.Array]:
    """K masks of every sequence, (X, K, L), and the weights (K,) of their mean; `estimator` is any but `exact`."""
    placement = _PLACEMENTS.get(estimator, estimator)
    blank = jnp.ones(space.sequences.shape, bool)
    return sample_mask_draws(key, blank, num_draws, placement=placement), mask_draw_weights(placement, num_draws)


def estimated_bounds(
    token_log_prob: jax.Array, draws: MaskDraws, weight: jax.Array, order: jax.Array | float
) -> Bounds:
    """The exact log-likelihood of every sequence, and the ELBO and SPG's EUBO estimated from the same K masks.

    Args:
      token_log_prob: (X, S, L) of `token_log_probs`.
      draws: K masks of every sequence.
      weight: (K,) of the draws.
      order: b >= 1 of the EUBO.

    Returns:
      Bounds, each (X,).
    """
    bits = 1 << jnp.arange(token_log_prob.shape[-1])
    revealed = jnp.sum(jnp.where(draws.hidden, 0, bits), axis=-1)  # (X, K) subsets
    drawn = jnp.take_along_axis(token_log_prob, revealed[..., None], axis=1)  # (X, K, L), 0 where revealed
    return Bounds(
        log_order_mean(token_log_prob),
        -draw_losses(drawn, draws) @ weight,
        estimated_eubo_per_token(drawn, draws.coefficient, weight, order),
    )
