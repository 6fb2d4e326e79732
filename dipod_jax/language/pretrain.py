"""Pretraining: masked cross-entropy on correct answers, cached under a hash of everything that determines it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dipod_jax.bounds.mask_draws import draw_losses, sample_mask_draws
from dipod_jax.checks import Checked
from dipod_jax.language.model import MaskedTransformer, token_log_probs
from dipod_jax.language.task import MASK, Task
from dipod_jax.runs import (
    CheckpointError,
    check_checkpoint,
    latest_checkpoint,
    reason_of,
    restore_checkpoint,
    save_checkpoint,
)
from dipod_jax.runs._disk import write_json
from dipod_jax.runs.lock import locked
from dipod_jax.types import Params

# Part of the hash: raise it when a change of the code makes other parameters of the same options.
VERSION = 3
MADE_OF = "made_of.json"
_STEPS_PER_CALL = 50


@dataclass(frozen=True)
class PretrainOptions:
    """AdamW on the masked-diffusion ELBO of correct answers, per token. It stops early to leave room for
    post-training."""

    steps: int = 82
    """gradient steps, >= 1"""
    batch_size: int = 128
    """sequences in a step, >= 1"""
    learning_rate: float = 1e-3
    """peak rate, > 0"""
    warm_up: int = 100
    """steps over which the rate rises to its peak, >= 0; if larger than `steps`, the peak is not reached"""
    decay_steps: int | None = None
    """step at which a cosine schedule reaches 0, >= `steps`; none: the rate stays at its peak"""
    seed: int = 0
    """seed of the initial parameters and the batches"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, "pretraining")
        check.number("steps", "batch_size", low=1)
        check.number("warm_up", "seed")
        check.positive("learning_rate")
        late = self.decay_steps is None or self.decay_steps >= max(self.steps, self.warm_up + 1)
        check.require(late, "decay_steps", "at least --pretraining.steps, and more than --pretraining.warm-up")


class Pretrained(NamedTuple):
    """Parameters, and their origin."""

    params: Params
    path: Path
    """The folder of their checkpoint."""
    was_cached: bool
    seconds: float
    """seconds that this call took"""


def fingerprint(task: Task, network: MaskedTransformer, options: PretrainOptions) -> tuple[str, dict]:
    """A hash of 16 digits over everything that determines the parameters, and the values that went into it."""
    shape = {f.name: getattr(network, f.name) for f in dataclasses.fields(network) if f.name not in ("parent", "name")}
    made_of = {
        "version": VERSION,
        "task": {"name": task.name, **dataclasses.asdict(task)},  # pyright: ignore[reportArgumentType]
        "network": shape,
        "pretraining": dataclasses.asdict(options),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16], made_of


def cached_folder(task: Task, network: MaskedTransformer, options: PretrainOptions, cache: Path) -> Path:
    """Where `pretrained` keeps the parameters."""
    return Path(cache) / f"{task.name}-{fingerprint(task, network, options)[0]}"


def pretrained(
    task: Task,
    network: MaskedTransformer,
    options: PretrainOptions,
    cache: Path,
    say: Callable[[str], None] = print,
) -> Pretrained:
    """Parameters pretrained on a task's corpus: read from the cache if they are there.

    Args:
      task: whose corpus it is. network: as for `Task.length` and `vocab_size`.
      options: how.
      cache: folder under which `<task>-<hash>` is made; its `made_of.json` says what the hash is of.
      say: receives progress lines.

    Raises:
      CheckpointError: the cached files are damaged.
    """
    started = time.perf_counter()
    folder = cached_folder(task, network, options, cache)
    with contextlib.ExitStack() as alone:  # of processes that want one model one makes it, and the others wait
        with contextlib.suppress(OSError):  # a cache that takes no file: each makes its own
            folder.mkdir(parents=True, exist_ok=True)
            alone.enter_context(locked(folder, math.inf, say))
        params, is_cached = _load_or_pretrain(task, network, options, folder, say)
    return Pretrained(params, folder, is_cached, time.perf_counter() - started)


def _load_or_pretrain(
    task: Task, network: MaskedTransformer, options: PretrainOptions, folder: Path, say: Callable[[str], None]
) -> tuple[Params, bool]:
    """The parameters, and whether they were in the cache."""
    if latest_checkpoint(folder) is not None:
        return load_params(folder, network), True
    params = pretrain(task, network, options, say)
    try:
        save_checkpoint(folder, options.steps, params, keep=1)
        write_json(folder / MADE_OF, fingerprint(task, network, options)[1])
        params = load_params(folder, network)  # as from the cache: JAX compiles anew for arrays placed otherwise
    except (OSError, CheckpointError) as error:
        say(f"warning: the pretrained model is not kept in {folder} ({reason_of(error)}); the next run makes it again")
    return params, False


def load_params(folder: Path, network: MaskedTransformer) -> Params:
    """The newest parameters of a network that a folder holds.

    Raises:
      CheckpointError: there are none, they are damaged, or they belong to another network.
    """
    return restore_checkpoint(*_saved(folder, network))


def check_params(folder: Path, network: MaskedTransformer) -> None:
    """Raise as `load_params` where it would; nothing is loaded, and no device is asked for."""
    check_checkpoint(*_saved(folder, network))


def _saved(folder: Path, network: MaskedTransformer) -> tuple[Path, Params]:
    """The newest checkpoint, and the shapes that it must have."""
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(f"--pretrained {folder} holds no checkpoint")
    return checkpoint, jax.eval_shape(lambda: init_params(network, jax.random.key(0)))


def init_params(network: MaskedTransformer, key: jax.Array) -> Params:
    """Fresh parameters."""
    return network.init(key, jnp.zeros((1, network.length), jnp.int32))


def pretrain(
    task: Task, network: MaskedTransformer, options: PretrainOptions, say: Callable[[str], None] = print
) -> Params:
    """Train from scratch: `steps` gradient steps on batches of the corpus, drawn with replacement."""
    corpus = task.corpus()
    answer, blank = jnp.asarray(corpus.answer), jnp.asarray(corpus.prompt == MASK)
    optimizer = make_optimizer(options)
    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    params = jax.jit(partial(init_params, network))(init_key)

    def step(carry, key):
        params, state = carry
        row_key, mask_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (options.batch_size,), 0, len(answer))
        loss, gradient = jax.value_and_grad(partial(masked_loss, network))(params, answer[rows], blank[rows], mask_key)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    carry, keys = (params, optimizer.init(params)), jax.random.split(batch_key, options.steps)
    for start in range(0, options.steps, _STEPS_PER_CALL):
        carry, losses = run(carry, keys[start : start + _STEPS_PER_CALL])
        done = min(start + _STEPS_PER_CALL, options.steps)
        if done == options.steps or done % (10 * _STEPS_PER_CALL) == 0:
            say(f"pretraining: {done} of {options.steps} steps, {float(losses[-10:].mean()):.3f} nats a token")
    return carry[0]


def make_optimizer(options: PretrainOptions) -> optax.GradientTransformation:
    """AdamW (.9, .98), weight decay .01, behind a clip of the gradient's norm at 1."""
    peak, warm_up = options.learning_rate, options.warm_up
    if options.decay_steps is None:
        rate = optax.warmup_constant_schedule(0.0, peak, warm_up)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, warm_up, options.decay_steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=0.01))


def masked_loss(
    network: MaskedTransformer, params: Params, tokens: jax.Array, blank: jax.Array, key: jax.Array
) -> jax.Array:
    """Mean over sequences of -ELBO / L, from one mask each: m ~ U{1..L} of the L blanks, factor L / m.

    Args:
      tokens: (B, P) right answers. blank: (B, P) bool. key: consumed.

    Returns:
      () nats per token.
    """
    draws = sample_mask_draws(key, blank, 1, placement="uniform")
    logits = network.apply(params, jnp.where(draws.hidden, MASK, tokens[:, None]))
    log_prob = token_log_probs(logits, tokens[:, None])  # pyright: ignore[reportArgumentType]
    return jnp.mean(draw_losses(log_prob, draws)[:, 0] / blank.sum(-1))
