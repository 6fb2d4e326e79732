"""Exact log-likelihood, ELBO and EUBOs of every sequence, by dynamic programming over revealed subsets.

Unmasking one uniformly chosen position at a time, `pi(x) = mean over the L! orders of w_order(x)`, w_order being the
product of the conditionals along the order. A mean over orders obeys a recursion over the subsets S of revealed
positions: `F(S) = mean_{i in S} F(S - i) p(x_i | x_{S-i})`, so 2^L steps replace L! paths.
"""

import jax
import jax.numpy as jnp

from dipod_jax.tinydiffusion.space import Space
from dipod_jax.twotoken.bounds import Bounds


def token_log_probs(conditionals: jax.Array, space: Space) -> jax.Array:
    """log p(x_i | x_S) for every sequence, subset of revealed positions and position outside it; 0 inside.

    Args:
      conditionals: (Z, L, V) from a model.
      space: tables of the same L and V.

    Returns:
      (X, S, L).
    """
    positions = jnp.arange(space.length)
    gathered = conditionals[space.contexts[:, :, None], positions, space.sequences[:, None, :]]
    return jnp.where(space.masked, gathered, 0.0)


def log_order_mean(token_log_prob: jax.Array, space: Space, order: jax.Array | float = 1.0) -> jax.Array:
    """(1/b) log mean over all unmasking orders of w_order(x)^b, the power mean of order b of the path probabilities.

    b = 1 is the exact log-likelihood; b > 1 is the Renyi EUBO (DiPOD Eq. 17), never below it; b -> 0 tends to the ELBO.

    Args:
      token_log_prob: (X, S, L).
      space: its tables.
      order: b > 0.

    Returns:
      (X,).
    """
    num_sequences, num_subsets, _ = token_log_prob.shape
    log_mean = jnp.zeros((num_sequences, num_subsets), token_log_prob.dtype)  # F of the empty subset: 1
    for size, level in enumerate(space.levels, start=1):
        paths = log_mean[:, level.before] + order * token_log_prob[:, level.before, level.revealed]  # (X, C, size)
        log_mean = log_mean.at[:, level.subsets].set(jax.nn.logsumexp(paths, axis=-1) - jnp.log(size))
    return log_mean[:, -1] / order


def elbo(token_log_prob: jax.Array, space: Space) -> jax.Array:
    """Mean over all orders of log w_order(x), the masked-diffusion ELBO integrated exactly over t: -> (X,)."""
    return jnp.einsum("xsi,si->x", token_log_prob, jnp.asarray(space.order_weights, token_log_prob.dtype))


def eubo_spg(token_log_prob: jax.Array, space: Space, order: jax.Array | float) -> jax.Array:
    """SPG's EUBO (Eqs. 31-32): `sum_i (1/b) log E_S[p(x_i | x_S)^b]`, without the theta-free constant C(T).

    S is distributed as the positions revealed before i in a uniform order. An upper bound for b >= L (Hoelder).

    Args:
      token_log_prob: (X, S, L).
      space: its tables.
      order: b >= 1.

    Returns:
      (X,).
    """
    weights = jnp.asarray(space.order_weights, token_log_prob.dtype)
    return jnp.sum(jax.nn.logsumexp(order * token_log_prob, axis=1, b=weights), axis=-1) / order


def all_bounds(conditionals: jax.Array, space: Space, eubo: str, order: jax.Array | float) -> Bounds:
    """Log-likelihood, ELBO and the chosen EUBO ("spg" or "renyi") of every sequence: Bounds of (X,)."""
    log_probs = token_log_probs(conditionals, space)
    upper = eubo_spg(log_probs, space, order) if eubo == "spg" else log_order_mean(log_probs, space, order)
    return Bounds(log_order_mean(log_probs, space), elbo(log_probs, space), upper)


def self_distilled_table(prob: jax.Array, space: Space) -> jax.Array:
    """The table that perfect self-distillation ends at: the true conditionals of a distribution over V^L.

    The maximiser of `sum_x prob(x) ELBO(x)` sets p(token | context) to the conditional probability under `prob`; every
    order then gives the same product, so the bound is tight and the likelihood is `prob` itself.

    Args:
      prob: (X,) positive, summing to 1.
      space: tables.

    Returns:
      (Z, L, V) logits for `ConditionalTable`; 0 where the position is already revealed.
    """
    base = space.vocab_size + 1
    num_contexts = base**space.length
    marginal = jnp.zeros(num_contexts, prob.dtype).at[space.contexts].add(prob[:, None])  # (Z,)
    place = base ** jnp.arange(space.length)  # (L,)
    context = jnp.arange(num_contexts)[:, None]
    is_masked = (context // place) % base == 0  # (Z, L)
    extended = context[..., None] + place[:, None] * (1 + jnp.arange(space.vocab_size))  # (Z, L, V)
    return jnp.where(is_masked[..., None], jnp.log(marginal[jnp.where(is_masked[..., None], extended, 0)]), 0.0)
