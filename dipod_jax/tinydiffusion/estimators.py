"""Monte-Carlo ELBO and EUBO: what a method sees when it cannot sum over all subsets.

A draw is a subset of revealed positions and a weight; an estimate is a weighted sum over a few draws. The same draws
serve ELBO and EUBO. What is *exact* here is the sum over sequences: only the bound is estimated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds import gauss_legendre

ESTIMATORS = ("exact", "uniform", "antithetic", "gdpo", "gdpo-bernoulli")


class Draws(NamedTuple):
    """K draws per sequence: revealed subsets and the weight of the masked tokens' log-probabilities."""

    subset: jax.Array  # (X, K) bit masks of revealed positions
    weight: jax.Array  # (X, K)


def sample_draws(key: jax.Array, estimator: str, num_draws: int, num_sequences: int, length: int) -> Draws:
    """Draw revealed subsets for every sequence.

    - `uniform`: the number of masked tokens is uniform on 1..L, then the positions; weight L / (count K). Unbiased.
    - `antithetic`: in pairs that share a random order, counts c and L + 1 - c, the second from the order's other end.
      Unbiased; `num_draws` must be even.
    - `gdpo`: GDPO's code: Gauss-Legendre nodes t_n, one mask of exactly floor(t_n L) tokens each, weight w_n / t_n.
      Biased for small L: counts that no node reaches are never seen.
    - `gdpo-bernoulli`: the same nodes, each token masked with probability t_n. Exact in t for 2 K - 1 >= L - 1.

    Args:
      key: typed PRNG key, consumed.
      estimator: one of `ESTIMATORS` but `exact`.
      num_draws: K >= 1.
      num_sequences: X.
      length: L.

    Returns:
      Draws.

    Raises:
      ValueError: for an odd number of antithetic draws or an unknown estimator.
    """
    shape = (num_sequences, num_draws)
    count_key, order_key = jax.random.split(key)
    if estimator == "uniform":
        count = jax.random.randint(count_key, shape, 1, length + 1)
        return Draws(_mask_first(_random_ranks(order_key, (*shape, length)), count), length / (count * num_draws))
    if estimator == "antithetic":
        if num_draws % 2:
            raise ValueError(f"antithetic draws come in pairs: num_draws must be even, got {num_draws}")
        half = (num_sequences, num_draws // 2)
        count = jax.random.randint(count_key, half, 1, length + 1)
        ranks = _random_ranks(order_key, (*half, length))
        count = jnp.concatenate([count, length + 1 - count], axis=-1)
        ranks = jnp.concatenate([ranks, length - 1 - ranks], axis=-2)
        return Draws(_mask_first(ranks, count), length / (count * num_draws))
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is unknown: choose from {', '.join(ESTIMATORS)}")
    nodes, weights = gauss_legendre(num_draws)
    weight = jnp.broadcast_to(jnp.asarray(weights / nodes), shape)
    if estimator == "gdpo":
        count = jnp.asarray(np.floor(nodes * length + 1e-9).astype(int))
        return Draws(_mask_first(_random_ranks(order_key, (*shape, length)), jnp.broadcast_to(count, shape)), weight)
    revealed = jax.random.uniform(order_key, (*shape, length)) >= jnp.asarray(nodes)[:, None]
    return Draws(_bits(revealed), weight)


def estimated_elbo(token_log_prob: jax.Array, draws: Draws) -> jax.Array:
    """sum_k weight_k sum_{i masked in S_k} log p(x_i | x_{S_k}): (X, S, L) and Draws -> (X,)."""
    drawn = jnp.take_along_axis(token_log_prob, draws.subset[..., None], axis=1)  # (X, K, L), 0 where revealed
    return jnp.einsum("xk,xki->x", draws.weight, drawn)


def estimated_eubo(token_log_prob: jax.Array, draws: Draws, masked: np.ndarray, order: jax.Array | float) -> jax.Array:
    """SPG's EUBO from draws: `sum_i (1/b) log sum_k weight_k 1[i masked] p(x_i | x_{S_k})^b`.

    Summed over the tokens masked in at least one draw, as SPG's code does. Biased (a log of a mean); with a single draw
    it is the unweighted log-probability of the masked tokens plus a constant.

    Args:
      token_log_prob: (X, S, L).
      draws: K draws.
      masked: (S, L) bool, `Space.masked`.
      order: b >= 1.

    Returns:
      (X,).
    """
    drawn = jnp.take_along_axis(token_log_prob, draws.subset[..., None], axis=1)  # (X, K, L)
    weight = jnp.where(jnp.asarray(masked)[draws.subset], draws.weight[..., None], 0.0)
    seen = jnp.any(weight > 0, axis=1)  # (X, L)
    # Double where: an unseen token gets weight 1 inside the log, so that its discarded branch has no nan gradient.
    log_mean = jax.nn.logsumexp(order * drawn, axis=1, b=jnp.where(seen[:, None, :], weight, 1.0))
    return jnp.sum(jnp.where(seen, log_mean, 0.0), axis=-1) / order


def _random_ranks(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A uniformly random ranking of the positions: each row a permutation of 0..L-1."""
    return jnp.argsort(jax.random.uniform(key, shape), axis=-1)


def _mask_first(ranks: jax.Array, count: jax.Array) -> jax.Array:
    """Revealed subset when the `count` positions of lowest rank are masked."""
    return _bits(ranks >= count[..., None])


def _bits(revealed: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(revealed, 1 << jnp.arange(revealed.shape[-1]), 0), axis=-1)
