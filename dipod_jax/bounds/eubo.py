"""An optimistic counterpart of the ELBO, for actions that are to become less likely (SPG), and in what sense it is a
bound.

What is proved, for scores e_n and weights w_n that sum to 1 (Jensen; power means):
  ``mean e <= renyi(e; beta) <= max e``, renyi grows with beta, tends to the mean as beta -> 0 and to the maximum as
  beta -> infinity. So as estimates on one set of draws it lies above the ELBO, always.

What is not proved: that it lies above log p. In the discrete toy e_n is the log-probability of a whole path and beta
>= 1 makes it an upper bound; on continuous actions e_n is one (t, eps) term of the ELBO's *integral*, no likelihood of
a path, and no such theorem holds. With few draws the logarithm of a mean is also biased low. Hence ``eubo_like``.
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer


def eubo_like(scores: Array, *, order: float | Array, weights: Array | None = None) -> Array:
    """Renyi bound of order beta: ``(1/beta) log sum_n w_n exp(beta e_n)`` (DiPOD eq. 17; SPG eq. 7 per draw).

    Args:
      scores: (..., N) per-draw log-likelihood surrogates e_n = -w(t_n) * loss_n.
      order: beta > 0 (1 and 1.5 in SPG); may be traced.
      weights: (N,) non-negative, summing to 1; None for 1/N.

    Returns:
      (...) at least the weighted mean of the scores. Not a proven upper bound of the log-likelihood: see the module's
      docstring.

    Raises:
      ValueError: for a concrete order that is not positive.
    """
    if not isinstance(order, Tracer) and not float(order) > 0.0:
        raise ValueError(f"order {order} must be positive")
    num_draws = scores.shape[-1]
    weights = jnp.full((num_draws,), 1.0 / num_draws, scores.dtype) if weights is None else weights
    chex.assert_shape(weights, (num_draws,))
    return jax.nn.logsumexp(order * scores, axis=-1, b=weights) / order


def mixed_bound(scores: Array, *, order: float | Array, mix: float | Array, weights: Array | None = None) -> Array:
    """SPG's mixture ``omega EUBO + (1 - omega) ELBO`` (eq. 8); its gradient weighs draws by ``omega softmax_n +
    (1-omega) w_n``.

    Args:
      scores: (..., N) as in ``eubo_like``.
      order: beta > 0.
      mix: omega in [0, 1] (SPG: .5); may be traced.
      weights: (N,) summing to 1; None for 1/N.

    Returns:
      (...) between the ELBO and the EUBO.

    Raises:
      ValueError: for a concrete order that is not positive or a concrete mix outside [0, 1].
    """
    if not isinstance(mix, Tracer) and not 0.0 <= float(mix) <= 1.0:
        raise ValueError(f"mix {mix} must lie in [0, 1]")
    lower = jnp.mean(scores, axis=-1) if weights is None else scores @ weights
    return mix * eubo_like(scores, order=order, weights=weights) + (1.0 - mix) * lower
