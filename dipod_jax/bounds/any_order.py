"""Exact log-likelihood, ELBO and EUBOs of tokens unmasked in a random order, by dynamic programming over subsets.

Unmasking one uniformly chosen blank at a time, `pi(x) = mean over the L! orders of w_order(x)`, where w_order is the
product of the conditionals `p(x_i | x_S)` along the order. A mean over orders obeys a recursion over the subsets S of
revealed blanks, `F(S) = mean_{i in S} F(S - i) p(x_i | x_{S-i})`, so that 2^L steps replace L! paths.

Everything here takes `token_log_prob` (..., S, L), the log-probability of each token in each of the S = 2^L contexts
(`subset_contexts`), and is vectorised over the leading axes. If a prompt has fewer than L blanks, the missing ones have
log-probability 0 in every context and change nothing.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_LENGTH = 12  # 4,096 contexts of each sequence


class Level(NamedTuple):
    """The C(L, k) subsets of k revealed blanks, and how each is reached by revealing one more."""

    subsets: np.ndarray  # (C,) bit masks
    before: np.ndarray  # (C, k) the subset without its j-th blank
    revealed: np.ndarray  # (C, k) that blank


class Subsets(NamedTuple):
    """Index tables of the subsets of L blanks; S = 2^L of them, each a bit mask of what is revealed."""

    length: int
    masked: np.ndarray  # (S, L) bool, the blank is not in the subset
    order_weights: np.ndarray  # (S, L) share of the orders that reveal the blank right after the subset
    levels: tuple[Level, ...]  # k = 1 ... L


@functools.cache
def make_subsets(length: int) -> Subsets:
    """Build the tables.

    `order_weights[S, i] = |S|! (L - 1 - |S|)! / L!` for i outside S, 0 inside: the fraction of all orders in which S
    comes first (in any order) and i next. It sums to 1 over S for every i.

    Args:
      length: L, 1 to 12.

    Returns:
      Subsets; cached, so treat its arrays as read-only.

    Raises:
      ValueError: for another length.
    """
    if not 1 <= length <= LARGEST_LENGTH:
        raise ValueError(f"{length} blanks: the exact likelihood is computed for 1 to {LARGEST_LENGTH}")
    blanks = np.arange(length)
    masked = (np.arange(2**length)[:, None] >> blanks) & 1 == 0  # (S, L)
    size = (~masked).sum(axis=-1)
    weight = np.array([math.factorial(k) * math.factorial(max(length - 1 - k, 0)) for k in size])
    return Subsets(
        length,
        masked,
        order_weights=np.where(masked, weight[:, None] / math.factorial(length), 0.0),
        levels=tuple(_level(np.flatnonzero(size == k), ~masked) for k in range(1, length + 1)),
    )


def _level(subsets: np.ndarray, revealed: np.ndarray) -> Level:
    subsets = subsets.astype(np.int32)  # jax may refuse indices of 64 bits
    blanks = np.stack([np.flatnonzero(revealed[s]) for s in subsets]).astype(np.int32)  # (C, k)
    return Level(subsets, subsets[:, None] - (1 << blanks), blanks)


def blank_positions(blank: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """Positions of a prompt's blanks, in reading order.

    Args:
      blank: (..., P) bool over the P positions of a sequence.
      length: L, static; at least the number of blanks.

    Returns:
      positions (..., L) and is_blank (..., L); if there are fewer than L blanks, the last positions are not blanks and
      is_blank is False there.
    """
    order = jnp.argsort(~blank, axis=-1, stable=True)[..., :length]
    return order, jnp.take_along_axis(blank, order, axis=-1)


def subset_contexts(tokens: jax.Array, blank: jax.Array, length: int, mask: int) -> jax.Array:
    """(..., S, P) the sequence under each of the S = 2^L masks of its blanks.

    Args:
      tokens: (..., P) completed sequences.
      blank: (..., P) bool.
      length: L, static.
      mask: the token of a blank.
    """
    positions, is_blank = blank_positions(blank, length)
    selects = (positions[..., None] == jnp.arange(blank.shape[-1])) & is_blank[..., None]  # (..., L, P)
    masked = jnp.asarray(make_subsets(length).masked)
    hidden = (masked[:, :, None] & selects[..., None, :, :]).any(-2)  # (..., S, P)
    return jnp.where(hidden, mask, tokens[..., None, :])


def log_order_mean(token_log_prob: jax.Array, order: jax.Array | float = 1.0) -> jax.Array:
    """(1/b) log mean over all unmasking orders of w_order(x)^b, the power mean of order b of the path probabilities.

    b = 1 is the exact log-likelihood; b > 1 is the Renyi EUBO (DiPOD, arXiv 2606.13795, eq. 17), never below it; b -> 0
    tends to the ELBO. It is the likelihood of the sampler that reveals one uniformly chosen blank per step, at
    temperature 1, not of any other decoder (see `dipod_jax.language.decoder_likelihood`).

    Args:
      token_log_prob: (..., S, L).
      order: b > 0.

    Returns:
      (...) nats.
    """
    *batch, num_subsets, length = token_log_prob.shape
    log_mean = jnp.zeros((*batch, num_subsets), token_log_prob.dtype)  # F of the empty subset: 1
    for size, level in enumerate(make_subsets(length).levels, start=1):
        paths = log_mean[..., level.before] + order * token_log_prob[..., level.before, level.revealed]
        log_mean = log_mean.at[..., level.subsets].set(jax.nn.logsumexp(paths, axis=-1) - jnp.log(size))
    return log_mean[..., -1] / order


def elbo(token_log_prob: jax.Array) -> jax.Array:
    """(...) mean over all orders of log w_order(x): the masked-diffusion ELBO, integrated exactly over t and masks."""
    weights = jnp.asarray(make_subsets(token_log_prob.shape[-1]).order_weights, token_log_prob.dtype)
    return jnp.einsum("...si,si->...", token_log_prob, weights)


def eubo_per_token(token_log_prob: jax.Array, order: jax.Array | float) -> jax.Array:
    """SPG's EUBO (arXiv 2510.09541, eqs. 31-32): `sum_i (1/b) log E_S[p(x_i | x_S)^b]`, without its constant C(T).

    S is distributed as the blanks revealed before i in a uniform order. An upper bound of the log-likelihood for b >= L
    (Hoelder); for smaller b it can lie below.

    Args:
      token_log_prob: (..., S, L).
      order: b > 0.

    Returns:
      (...) nats.
    """
    weights = jnp.asarray(make_subsets(token_log_prob.shape[-1]).order_weights, token_log_prob.dtype)
    return jnp.sum(jax.nn.logsumexp(order * token_log_prob, axis=-2, b=weights), axis=-1) / order
