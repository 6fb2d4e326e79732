"""What the studies share: their options, their rewards, and how measurements become rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.tinydiffusion.model import MODELS
from dipod_jax.tinydiffusion.training import Curves, Runs, Settings, make_runs

REWARD_RANGE = (0.7, 1.0)  # the toy's


class Options(NamedTuple):
    """What the command line sets for every study."""

    length: int
    vocab_size: int
    model: str = "table"
    steps: int = 3000
    learning_rate: float = 2.0
    beta: float = 0.2
    seeds: int = 5
    baseline: str = "on-policy"
    eubo: str = "spg"
    eubo_order: float = 1.5
    estimator: str = "exact"
    num_draws: int = 1


class Study(NamedTuple):
    """Rows of a table, a figure, and the arrays behind both."""

    rows: list[dict[str, str]]
    figure: Figure
    arrays: dict[str, np.ndarray]


def settings_of(options: Options, **changes) -> Settings:
    """The training program for these options; `changes` are fields of Settings."""
    length = changes.pop("length", options.length)
    base = Settings(
        model=MODELS[options.model](length, options.vocab_size),
        length=length,
        vocab_size=options.vocab_size,
        steps=options.steps,
        record_every=max(options.steps // 100, 1),
        learning_rate=options.learning_rate,
        baseline=options.baseline,
        eubo=options.eubo,
        eubo_order=options.eubo_order,
        estimator=options.estimator,
        num_draws=options.num_draws,
    )
    return base._replace(**changes)


def random_rewards(num_sequences: int, seeds: int) -> np.ndarray:
    """(seeds, X): uniform draws, stretched so that the worst sequence has .7 and the best 1, as in the toy."""
    draws = np.stack([np.random.default_rng(seed).uniform(size=num_sequences) for seed in range(seeds)])
    low, high = draws.min(axis=-1, keepdims=True), draws.max(axis=-1, keepdims=True)
    return REWARD_RANGE[0] + (REWARD_RANGE[1] - REWARD_RANGE[0]) * (draws - low) / (high - low)


def seeded_runs(
    options: Options, methods: Sequence[str], betas: Sequence[float], num_updates=None, length=None
) -> Runs:
    """One run for each (method, beta[, n]) and reward seed, seeds fastest."""
    rewards = random_rewards(options.vocab_size ** (length or options.length), options.seeds)
    updates = np.ones(len(methods), int) if num_updates is None else np.asarray(num_updates)
    return make_runs(
        np.repeat(methods, options.seeds),
        np.repeat(betas, options.seeds),
        np.tile(rewards, (len(methods), 1)),
        np.tile(np.arange(options.seeds), len(methods)),
        np.repeat(updates, options.seeds),
    )


def by_method(curves, num_methods: int):
    """(R, T) -> (methods, seeds, T) for every field."""
    return type(curves)(*(c.reshape(num_methods, -1, c.shape[-1]) for c in curves))


def progress(curves: Curves) -> np.ndarray:
    """Share of the possible improvement reached, (J - J_start) / (max r - J_start), in [.., 1]."""
    start = curves.expected_reward[..., :1]
    return np.asarray((curves.expected_reward - start) / (REWARD_RANGE[1] - start))


def value_when(values: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """`values` (..., T) at the first record where `reached` holds, nan where it never does."""
    first = np.argmax(reached, axis=-1)
    found = np.take_along_axis(values, first[..., None], axis=-1)[..., 0]
    return np.where(reached.any(axis=-1), found, np.nan)


def spread(values: Any, digits: int = 4) -> str:
    """`mean ± sd` over seeds (sample standard deviation), with the number of seeds where some had no value."""
    values = np.asarray(values)
    kept = values[~np.isnan(values)]
    if kept.size == 0:
        return "never"
    text = f"{kept.mean():.{digits}f}"
    if kept.size > 1:
        text += f" ± {kept.std(ddof=1):.{digits}f}"
    return text if kept.size == values.size else f"{text} ({kept.size} of {values.size})"


def plot_seeds(axis, x, values: np.ndarray, **style) -> None:
    """Mean over seeds as a line and their range as a band; values (seeds, T)."""
    (line,) = axis.plot(x, values.mean(axis=0), lw=2, **style)
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.12, lw=0)


def tidy(*axes) -> None:
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
