"""Accuracy on held-out problems, by three decoders."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.language.decoding import Decoded, DecoderOptions, decode, noise_shape
from dipod_jax.language.task import Problems, Task
from dipod_jax.policies.masked import MaskedPolicy
from dipod_jax.types import Params


class Accuracy(NamedTuple):
    """Of P problems, bool (P,) each; the reward is of the sampled answers."""

    greedy: jax.Array  # solved by the acting decoder at temperature 0
    greedy_validity: jax.Array  # well formed
    sampled: jax.Array  # solved by the acting decoder
    sampled_validity: jax.Array
    random_order: jax.Array  # solved one token a step in random order at temperature 1, where the likelihood is exact
    reward: jax.Array  # (P,) float


def means(accuracy: Accuracy, fresh: np.ndarray | None = None) -> dict[str, float]:
    """Each measure's mean; with `fresh` (P,) bool, the problems that training did not see (`task.unseen`), those of the
    solved ones over these alone as well, unless there are none."""
    found = {name: float(values.mean()) for name, values in accuracy._asdict().items()}
    if fresh is not None and fresh.any():
        found |= {f"{name}_unseen": float(getattr(accuracy, name)[fresh].mean()) for name in ("greedy", "sampled")}
    return found


def decoders(acting: DecoderOptions) -> dict[str, DecoderOptions]:
    """The decoders of an evaluation, by name."""
    return {
        "greedy": dataclasses.replace(acting, temperature=0.0),
        "sampled": acting,
        "random_order": DecoderOptions("random", 1, None, 1.0),
    }


def decode_problems(
    policy: MaskedPolicy, params: Params, prompt: jax.Array, key: jax.Array, options: DecoderOptions, num_blanks: int
) -> Decoded:
    """Answers of a decoder to prompts (P, L) with at most `num_blanks` blanks."""
    noise = jax.random.normal(key, (len(prompt), *noise_shape(options, policy.action_size, num_blanks)))
    return decode(lambda tokens: policy.logits(params, tokens), prompt, noise, options)


def evaluate(
    policy: MaskedPolicy,
    task: Task,
    params: Params,
    problems: Problems,
    key: jax.Array,
    num_blanks: int | None = None,
) -> Accuracy:
    """Solve problems with each decoder, once.

    Args:
        problems: (P, L).
        key: consumed; greedy answers depend on it only where the acting decoder's order is random.
        num_blanks: the largest number of blanks in a prompt; the policy's own limit where None.
    """
    prompt, answer = (jnp.asarray(x) for x in problems)
    count = policy.num_blanks if num_blanks is None else num_blanks
    keys = jax.random.split(key, 3)
    greedy, sampled, random_order = (
        decode_problems(policy, params, prompt, k, options, count).tokens
        for k, options in zip(keys, decoders(policy.options.decoder).values(), strict=True)
    )
    return Accuracy(
        task.solved(prompt, answer, greedy),
        task.well_formed(prompt, answer, greedy),
        task.solved(prompt, answer, sampled),
        task.well_formed(prompt, answer, sampled),
        task.solved(prompt, answer, random_order),
        task.reward(prompt, answer, sampled),
    )
