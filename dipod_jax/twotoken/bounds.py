"""Exact log-likelihood, ELBO and EUBOs of the four outputs, from their conditional log-probabilities.

Throughout, `conditionals` is (..., 2, 2) as `model.conditional_log_probs` returns it, and w1, w2 are the
probabilities of an output under the two unmasking orders.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.twotoken.model import order_log_probs


class Bounds(NamedTuple):
    """Log-likelihood of every output and its two bounds, each (X,).

    The same tuple carries the weights of a linear combination of the three (a cotangent).
    """

    log_prob: jax.Array
    elbo: jax.Array
    eubo: jax.Array

    @property
    def lower_gap(self) -> jax.Array:
        """D^L = log pi - ELBO >= 0, (X,)."""
        return self.log_prob - self.elbo

    @property
    def upper_gap(self) -> jax.Array:
        """D^U = EUBO - log pi, (X,); not below 0 where the EUBO is a bound."""
        return self.eubo - self.log_prob


def log_likelihood(conditionals: jax.Array) -> jax.Array:
    """Exact log pi(x) = log((w1 + w2) / 2) over both unmasking orders: (..., 2, 2) -> (...)."""
    return jax.nn.logsumexp(order_log_probs(conditionals), axis=-1) - jnp.log(2.0)


def elbo(conditionals: jax.Array) -> jax.Array:
    """ELBO = (log w1 + log w2) / 2, the masked-diffusion bound integrated exactly over t: (..., 2, 2) -> (...).

    `int_0^1 (1/t) E_mask[sum_masked log p] dt` weighs each of the four (position, context) terms by 1/2.
    """
    return jnp.sum(conditionals, axis=(-2, -1)) / 2.0


def eubo_renyi(conditionals: jax.Array, order: jax.Array | float) -> jax.Array:
    """Renyi EUBO (DiPOD Eq. 17): (1/b) log((w1^b + w2^b) / 2) >= log pi for b >= 1.

    Args:
      conditionals: (..., 2, 2).
      order: b >= 1; at 1 it is log pi itself.

    Returns:
      (...).
    """
    return _log_power_mean(order_log_probs(conditionals), order)


def eubo_spg(conditionals: jax.Array, order: jax.Array | float) -> jax.Array:
    """SPG's EUBO (Eqs. 31-32), a power mean over the contexts of each token, summed over tokens.

    `sum_i (1/b) log((p(x_i|MM)^b + p(x_i|x_other)^b) / 2)`, without the theta-free constant C(T). By Hoelder's
    inequality it is an upper bound on log pi for b >= 2, the number of tokens; at SPG's own b = 1.5 it is not.

    Args:
      conditionals: (..., 2, 2).
      order: b >= 1.

    Returns:
      (...).
    """
    return jnp.sum(_log_power_mean(conditionals, order), axis=-1)


def _log_power_mean(log_values: jax.Array, order: jax.Array | float) -> jax.Array:
    """Log of the power mean of order b over the last axis, in log space: no power of a small number is formed."""
    return (jax.nn.logsumexp(order * log_values, axis=-1) - jnp.log(log_values.shape[-1])) / order


EUBO_FNS = {"spg": eubo_spg, "renyi": eubo_renyi}


def all_bounds(conditionals: jax.Array, eubo: str, order: jax.Array | float) -> Bounds:
    """Log-likelihood, ELBO and the chosen EUBO of every output.

    Args:
      conditionals: (4, 2, 2).
      eubo: a key of `EUBO_FNS`.
      order: b >= 1 of the EUBO.

    Returns:
      Bounds, each (4,).
    """
    return Bounds(log_likelihood(conditionals), elbo(conditionals), EUBO_FNS[eubo](conditionals, order))
