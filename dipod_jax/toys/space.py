"""All sequences and contexts of V^L as index tables, and conditionals of every sequence from those of every context.

A *context* is a sequence in which some positions are masked: Z = (V+1)^L of them, numbered in base V+1, the first
position least significant, with digit 0 for the mask and token + 1 otherwise. A sequence x and a subset S of revealed
positions (a bit mask, `dipod_jax.bounds.any_order`) name the context in which exactly the positions of S of x are seen.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds.any_order import Subsets, make_subsets


class Space(NamedTuple):
    """Index tables of V^L; X = V^L sequences, S = 2^L subsets, Z = (V+1)^L contexts."""

    length: int
    vocab_size: int
    sequences: np.ndarray  # (X, L) tokens, the first position slowest
    contexts: np.ndarray  # (X, S) number of the context of sequence and subset
    subsets: Subsets


@functools.cache
def make_space(length: int, vocab_size: int) -> Space:
    """Build the tables for 1 <= L <= 12 and V >= 2; cached, so treat the arrays as read-only."""
    subsets = make_subsets(length)
    sequences = np.stack(np.unravel_index(np.arange(vocab_size**length), (vocab_size,) * length), axis=-1)
    digits = (sequences + 1) * (vocab_size + 1) ** np.arange(length)  # (X, L)
    return Space(length, vocab_size, sequences, digits @ (~subsets.masked).T.astype(digits.dtype), subsets)


def all_contexts(length: int, vocab_size: int) -> np.ndarray:
    """(Z, L) digits of every context, in the order of their numbers."""
    kinds = (vocab_size + 1,) * length
    return np.stack(np.unravel_index(np.arange(np.prod(kinds)), kinds, order="F"), axis=-1)


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
    return jnp.where(space.subsets.masked, gathered, 0.0)


def self_distilled_table(prob: jax.Array, space: Space) -> jax.Array:
    """The table at which perfect self-distillation ends: the true conditionals of a distribution over V^L.

    The maximiser of `sum_x prob(x) ELBO(x)` sets p(token | context) to the conditional probability under `prob`; every
    order then gives the same product, so the bound is tight and the likelihood is `prob` itself.

    Args:
      prob: (X,) positive, summing to 1.
      space: tables.

    Returns:
      (Z, L, V) logits for `ConditionalTable`; 0 where the position is already revealed.
    """
    contexts = all_contexts(space.length, space.vocab_size)
    marginal = jnp.zeros(len(contexts), prob.dtype).at[space.contexts].add(prob[:, None])  # (Z,)
    is_masked = (contexts == 0)[..., None]  # (Z, L, 1)
    place = (space.vocab_size + 1) ** np.arange(space.length)  # (L,)
    extended = np.arange(len(contexts))[:, None, None] + place[:, None] * (1 + np.arange(space.vocab_size))
    return jnp.where(is_masked, jnp.log(marginal[np.where(is_masked, extended, 0)]), 0.0)
