"""Sequences, contexts and unmasking orders of V^L as index tables (numpy only).

A *context* is a sequence in which some positions are masked: (V+1)^L of them, numbered in base V+1 with digit 0
for the mask and token + 1 otherwise. A *subset* S of revealed positions is a bit mask: 2^L of them. A sequence x
and a subset S name the context in which exactly the positions of S of x are revealed.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

# Arrays of the size of `token_log_probs` that are alive at once in a training step, forward and backward together.
_LIVE_COPIES = 8


class Level(NamedTuple):
    """The C(L, k) subsets of k revealed positions, and how each is reached by revealing one more."""

    subsets: np.ndarray  # (C,) bit masks
    before: np.ndarray  # (C, k) the subset without its j-th position
    revealed: np.ndarray  # (C, k) that position


class Space(NamedTuple):
    """Index tables of V^L; X = V^L sequences, S = 2^L subsets, Z = (V+1)^L contexts."""

    length: int
    vocab_size: int
    sequences: np.ndarray  # (X, L) tokens, the first position slowest
    contexts: np.ndarray  # (X, S) number of the context of sequence and subset
    masked: np.ndarray  # (S, L) bool, position is not in the subset
    order_weights: np.ndarray  # (S, L) share of unmasking orders that reveal the position right after the subset
    levels: tuple[Level, ...]  # k = 1 ... L


@functools.cache
def make_space(length: int, vocab_size: int) -> Space:
    """Build the tables.

    `order_weights[S, i] = |S|! (L - 1 - |S|)! / L!` for i outside S, 0 inside: of all orders, those in which S comes
    first (in any order) and i next. Over S it sums to 1 for every i.

    Args:
      length: L >= 1.
      vocab_size: V >= 2.

    Returns:
      Space; cached, so treat its arrays as read-only.
    """
    positions = np.arange(length)
    num_subsets = 2**length
    masked = (np.arange(num_subsets)[:, None] >> positions) & 1 == 0  # (S, L)
    sequences = np.stack(np.unravel_index(np.arange(vocab_size**length), (vocab_size,) * length), axis=-1)
    digits = (sequences + 1) * (vocab_size + 1) ** positions  # (X, L)
    size = (~masked).sum(axis=-1)
    weight = np.array([math.factorial(k) * math.factorial(max(length - 1 - k, 0)) for k in size])
    return Space(
        length,
        vocab_size,
        sequences,
        contexts=digits @ (~masked).T.astype(digits.dtype),
        masked=masked,
        order_weights=np.where(masked, weight[:, None] / math.factorial(length), 0.0),
        levels=tuple(_level(np.flatnonzero(size == k), ~masked) for k in range(1, length + 1)),
    )


def _level(subsets: np.ndarray, revealed: np.ndarray) -> Level:
    positions = np.stack([np.flatnonzero(revealed[s]) for s in subsets])  # (C, k)
    return Level(subsets, subsets[:, None] - (1 << positions), positions)


def training_bytes(length: int, vocab_size: int, num_runs: int) -> int:
    """Roughly what a vmapped training of `num_runs` takes: float64 arrays of X 2^L L numbers, and the tables."""
    per_run = (
        vocab_size**length * 2**length * length * _LIVE_COPIES + 4 * (vocab_size + 1) ** length * length * vocab_size
    )
    return 8 * (per_run * num_runs + vocab_size**length * 2**length)
