"""Decoders of a masked diffusion: which blanks a step fills, and with which tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.language.task import MASK

ConditionalsFn = Callable[[jax.Array], jax.Array]
"""tokens (..., L) -> logits (..., L, V)"""


@dataclass(frozen=True)
class DecoderOptions:
    """A decoder that fills the blanks of a prompt in steps, each conditioned on the tokens so far."""

    order: Literal["confidence", "random", "entropy"] = "confidence"
    """which blanks a step fills: confidence draws a token for every blank and keeps the most probable ones (LLaDA's
    low-confidence remasking); random; or entropy, the blanks whose distribution has the lowest entropy"""
    tokens_per_step: int = 2
    """blanks filled in a step, >= 1"""
    block_size: int | None = None
    """blanks per block, in reading order; each block is finished before the next one starts; none: a single block"""
    temperature: float = 0.9
    """temperature of the distribution that tokens are drawn from, >= 0; 0 takes the most likely token"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, "policy.decoder")
        check.choices()
        check.number("tokens_per_step", "block_size", low=1)
        check.number("temperature")

    def num_steps(self, num_blanks: int) -> int:
        """Steps that fill `num_blanks` blanks, or fewer."""
        blocks = [min(size, num_blanks - start) for start, size in self._blocks(num_blanks)]
        return sum(math.ceil(size / self.tokens_per_step) for size in blocks)

    def _blocks(self, num_blanks: int) -> list[tuple[int, int]]:
        size = self.block_size or num_blanks
        return [(start, size) for start in range(0, num_blanks, size)]


class Decoded(NamedTuple):
    """Completed sequences, and the step that filled each position."""

    tokens: jax.Array  # (..., L)
    step: jax.Array  # (..., L) int32, the step that filled a position, from 0; -1 where it was given


def noise_shape(options: DecoderOptions, length: int, num_blanks: int) -> tuple[int, int, int]:
    """(K, L, 2): of the standard normal noise of one sequence, a number for the word and one for the order."""
    return options.num_steps(num_blanks), length, 2


def decode(conditionals: ConditionalsFn, prompt: jax.Array, noise: jax.Array, options: DecoderOptions) -> Decoded:
    """Fill the blanks of prompts; one scan over K steps.

    Args:
      conditionals: logits of each position's word.
      prompt: (..., L) tokens, 0 where blank.
      noise: (..., K, L, 2) standard normal, `noise_shape`; ignored if nothing is random.
      options: the decoder.

    Returns:
      Decoded; a prompt with more blanks than K steps can fill keeps the remaining ones.
    """

    def step(tokens, inputs):
        index, noise = inputs
        logits = conditionals(tokens)
        word = _draw_words(logits, noise[..., 0], options.temperature)
        key = _priority(logits, word, noise[..., 1], options)
        chosen = _highest(key, eligible(tokens == MASK, prompt == MASK, options), options.tokens_per_step)
        return jnp.where(chosen, word, tokens), jnp.where(chosen, index, -1)

    steps = jnp.arange(noise.shape[-3], dtype=jnp.int32)
    tokens, filled = jax.lax.scan(step, prompt, (steps, jnp.moveaxis(noise, -3, 0)))
    return Decoded(tokens, filled.max(0))


def eligible(masked: jax.Array, blank: jax.Array, options: DecoderOptions) -> jax.Array:
    """(..., L) bool: the blanks still masked in the first unfinished block; `blank` (..., L) marks all blanks of the
    prompt."""
    if options.block_size is None:
        return masked
    block = (jnp.cumsum(blank, -1) - 1) // options.block_size
    current = jnp.min(jnp.where(masked, block, jnp.iinfo(jnp.int32).max), axis=-1, keepdims=True)
    return masked & (block == current)


def _draw_words(logits: jax.Array, noise: jax.Array, temperature: float) -> jax.Array:
    """(..., L) tokens 1..V drawn at each position by inverting the distribution function."""
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1) + 1
    cumulative = jnp.cumsum(jax.nn.softmax(logits / temperature), axis=-1)
    uniform = jax.scipy.stats.norm.cdf(noise)[..., None] * cumulative[..., -1:]
    return jnp.minimum(jnp.sum(cumulative <= uniform, axis=-1), logits.shape[-1] - 1) + 1


def _priority(logits: jax.Array, word: jax.Array, noise: jax.Array, options: DecoderOptions) -> jax.Array:
    """(..., L) the higher, the sooner a position is filled."""
    if options.order == "random":
        return noise
    probs = jax.nn.softmax(logits)
    if options.order == "entropy":
        return -entropies(logits)
    return jnp.sum(jax.nn.one_hot(word - 1, logits.shape[-1]) * probs, axis=-1)


def entropies(logits: jax.Array) -> jax.Array:
    """(...) nats, of the distribution of the last axis."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def _highest(key: jax.Array, allowed: jax.Array, count: int) -> jax.Array:
    """(..., L) bool: the `count` allowed positions with the highest key; ties go to the first."""
    key = jnp.where(allowed, key, -jnp.inf)
    position = jnp.arange(key.shape[-1])
    before = (key[..., None, :] > key[..., None]) | (
        (key[..., None, :] == key[..., None]) & (position < position[:, None])
    )
    return allowed & (jnp.sum(before & allowed[..., None, :], axis=-1) < count)
