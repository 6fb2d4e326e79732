"""The exact likelihood of the decoder that acts, where it can be had.

A decoder's step depends on the tokens filled so far and on fresh noise, never on the order in which they were filled.
So the subset of revealed blanks is the state of a Markov chain that runs inside the sequence x, and

    F(S + R) = sum over R of F(S) P(R is filled, with x_R | x_S)

over the subsets S (`dipod_jax.bounds.any_order`) gives log pi(x) for any of the decoders here:

- random order: R uniform among the eligible blanks, words independent at the temperature T;
- entropy: R is a function of the state, one path alone has probability;
- confidence: R and its words are drawn together. Words are drawn for all eligible blanks, independently; R with x_R is
  the outcome where every other blank drew a word of lower confidence, `sum_v p_T(v) [p(v) < min confidence of R]`.

It does not hold for a decoder that masks revealed tokens again, or whose choice depends on the number of the step: the
state is then larger than the subset. For those nothing here gives the likelihood; that of `random` order, one token a
step at temperature 1, is the policy's own whatever decoder acts. At temperature 0 a decoder is a function, and there is
no likelihood.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds.any_order import make_subsets
from dipod_jax.language.decoding import DecoderOptions, entropies


class Moves(NamedTuple):
    """The steps of a decoder between subsets of equal size: E of them."""

    source: np.ndarray  # (E,) bit masks S of what is revealed
    target: np.ndarray  # (E,) S + R
    filled: np.ndarray  # (E, L) bool, R
    waiting: np.ndarray  # (E, L) bool, eligible and not filled


@functools.cache
def decoder_moves(length: int, tokens_per_step: int, block_size: int | None) -> tuple[Moves, ...]:
    """The moves that a decoder can make from what it has reached, one entry a step; L blanks, all of them real."""
    block = np.arange(length) // (block_size or length)
    reached, steps = {0}, []
    while reached != {2**length - 1}:
        rows = []
        for source in sorted(reached):
            masked = [i for i in range(length) if not source >> i & 1]
            eligible = [i for i in masked if block[i] == block[masked[0]]]
            for filled in itertools.combinations(eligible, min(tokens_per_step, len(eligible))):
                rows.append((source, filled, eligible))
        is_in = lambda positions: np.isin(np.arange(length), positions)
        filled = np.stack([is_in(r[1]) for r in rows])
        source = np.array([r[0] for r in rows])
        target = source + filled @ (1 << np.arange(length))
        steps.append(Moves(source, target, filled, np.stack([is_in(r[2]) for r in rows]) & ~filled))
        reached = set(target.tolist())
    return tuple(steps)


def decoder_log_prob(logits: jax.Array, words: jax.Array, options: DecoderOptions) -> jax.Array:
    """log pi(x) of a decoder, in nats.

    Args:
      logits: (..., S, L, V) at the L blanks, in each of the 2^L contexts (`subset_contexts`).
      words: (..., L) of 1..V that stand in the blanks.
      options: the decoder, at a temperature > 0.

    Returns:
      (...)
    """
    length = words.shape[-1]
    num_subsets = len(make_subsets(length).masked)
    log_prob = jnp.full((*words.shape[:-1], num_subsets), -jnp.inf).at[..., 0].set(0.0)
    for moves in decoder_moves(length, options.tokens_per_step, options.block_size):
        paths = log_prob[..., moves.source] + _log_move_prob(logits[..., moves.source, :, :], words, moves, options)
        log_prob = _log_scatter(log_prob, moves.target, paths)
    return log_prob[..., -1]


def _log_scatter(log_prob: jax.Array, target: np.ndarray, paths: jax.Array) -> jax.Array:
    """log of the sum of exp(paths) (..., E) that arrive at each target."""
    reached = np.unique(target)
    arrives = np.where(target == reached[:, None], 0.0, -np.inf)  # (C, E)
    return log_prob.at[..., reached].set(jax.nn.logsumexp(paths[..., None, :] + arrives, axis=-1))


def _log_move_prob(logits: jax.Array, words: jax.Array, moves: Moves, options: DecoderOptions) -> jax.Array:
    """(..., E) log-probability of each move; logits (..., E, L, V) in its source."""
    drawn = jax.nn.log_softmax(logits / options.temperature)  # (..., E, L, V)
    chosen = jax.nn.one_hot(words - 1, logits.shape[-1], dtype=logits.dtype)[..., None, :, :]  # (..., 1, L, V)
    of_words = jnp.sum(jnp.where(moves.filled, jnp.sum(chosen * drawn, -1), 0.0), -1)  # (..., E)
    if options.order == "random":
        ways = [math.comb(int(w + f), int(f)) for w, f in zip(moves.waiting.sum(1), moves.filled.sum(1), strict=True)]
        return of_words - np.log(ways)
    if options.order == "entropy":
        return jnp.where(_fills_first(-entropies(logits), moves), of_words, -jnp.inf)
    confidence = jax.nn.softmax(logits)  # (..., E, L, V)
    last, place = _last_filled(jnp.sum(chosen * confidence, -1), moves)
    position = jnp.arange(words.shape[-1])[:, None]
    loses = confidence < last[..., None, None]
    loses |= (confidence == last[..., None, None]) & (position > place[..., None, None])
    log_loses = jax.nn.logsumexp(jnp.where(loses, drawn, -jnp.inf), axis=-1)  # (..., E, L)
    return of_words + jnp.sum(jnp.where(moves.waiting, log_loses, 0.0), -1)


def _last_filled(key: jax.Array, moves: Moves) -> tuple[jax.Array, jax.Array]:
    """The lowest key (..., E) among what a move fills, and its position, the last of equal ones."""
    key = jnp.where(moves.filled, key, jnp.inf)
    lowest = key.min(-1)
    position = jnp.arange(key.shape[-1])
    return lowest, jnp.max(jnp.where(key == lowest[..., None], position, -1), -1)


def _fills_first(key: jax.Array, moves: Moves) -> jax.Array:
    """(..., E) bool: no waiting blank precedes what the move fills."""
    last, place = _last_filled(key, moves)
    before = (key > last[..., None]) | ((key == last[..., None]) & (jnp.arange(key.shape[-1]) < place[..., None]))
    return ~(before & moves.waiting).any(-1)
