"""Shared parts of the studies: options, rewards, runs, and turning measurements into rows and pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.models import MODELS
from dipod_jax.toys.options import Baseline, Estimator, Eubo, Model, record_interval
from dipod_jax.toys.training import Curves, Run, Settings, make_runs, train

REWARD_RANGE = (0.7, 1.0)  # the toy's


class Options(NamedTuple):
    """The options that the command line sets for every study."""

    length: int
    vocab_size: int
    model: Model = "table"
    steps: int = 3000
    learning_rate: float = 2.0
    beta: float = 0.2
    seeds: int = 5
    baseline: Baseline = "on-policy"
    eubo: Eubo = "spg"
    eubo_order: float = 1.5
    estimator: Estimator = "exact"
    num_draws: int = 1


class Study(NamedTuple):
    """Rows of a table, a figure, and the arrays behind both."""

    rows: list[dict[str, str]]
    figure: Figure
    arrays: dict[str, np.ndarray]


class Trained(NamedTuple):
    """Runs over arms (methods, betas, ...) and reward seeds: arrays (arms, seeds, T)."""

    steps: np.ndarray  # (T,)
    curves: Curves
    gained: np.ndarray  # share of the possible improvement, (J - J_start) / (max r - J_start), at most 1


def settings_of(options: Options, **changes: Any) -> Settings:
    """The training program for these options; `changes` are fields of `Settings`."""
    of_options = options._asdict()
    del of_options["seeds"], of_options["beta"]
    fields: dict[str, Any] = of_options | {"record_every": record_interval(options.steps)} | changes
    return Settings(**fields | {"model": MODELS[options.model](fields["length"], options.vocab_size)})


def random_rewards(num_sequences: int, seeds: int) -> np.ndarray:
    """(seeds, X): uniform draws, stretched so that the worst sequence has .7 and the best 1, as in the toy."""
    draws = np.stack([np.random.default_rng(seed).uniform(size=num_sequences) for seed in range(seeds)])
    low, high = draws.min(axis=-1, keepdims=True), draws.max(axis=-1, keepdims=True)
    return REWARD_RANGE[0] + (REWARD_RANGE[1] - REWARD_RANGE[0]) * (draws - low) / (high - low)


def seeded_runs(settings: Settings, seeds: int, methods: Sequence[str], betas: Any, num_updates: Any = 1) -> Run:
    """One run for each arm and reward seed, seeds fastest.

    Args:
      settings: the program.
      seeds: number of reward tables.
      methods: one for each arm.
      betas: one for all, (arms, 1) or (arms, seeds).
      num_updates: likewise.
    """
    shape = len(methods), seeds
    rewards = random_rewards(settings.vocab_size**settings.length, seeds)
    return make_runs(
        np.repeat(methods, seeds),
        np.broadcast_to(betas, shape).ravel(),
        np.tile(rewards, (len(methods), 1)),
        np.tile(np.arange(seeds), len(methods)),
        np.broadcast_to(num_updates, shape).ravel(),
    )


def by_arm(settings: Settings, curves: Curves, seeds: int) -> Trained:
    """Curves (R, T) of `seeded_runs` as arrays (arms, seeds, T)."""
    curves = Curves(*(np.asarray(c).reshape(-1, seeds, c.shape[-1]) for c in curves))
    start = curves.expected_reward[..., :1]
    gained = np.asarray((curves.expected_reward - start) / (REWARD_RANGE[1] - start))
    return Trained(settings.record_every * np.arange(gained.shape[-1]), curves, gained)


def train_methods(options: Options, methods: Sequence[str], betas: Any = None, **changes: Any) -> Trained:
    """Train each method from every reward seed; `betas` as in `seeded_runs`, the options' one where None."""
    settings = settings_of(options, **changes)
    runs = seeded_runs(settings, options.seeds, methods, options.beta if betas is None else betas)
    return by_arm(settings, train(settings, runs), options.seeds)


def value_when(values: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """`values` (..., T) at the first record where `reached` holds, nan if it never does."""
    first = np.argmax(reached, axis=-1)
    found = np.take_along_axis(values, first[..., None], axis=-1)[..., 0]
    return np.where(reached.any(axis=-1), found, np.nan)


def largest_rise(values: np.ndarray) -> np.ndarray:
    """(...) by how much a curve (..., T) rises at most above its lowest value so far."""
    return np.max(values - np.minimum.accumulate(values, axis=-1), axis=-1)


def spread(values: Any, digits: int = 4) -> str:
    """`mean ± sd` over seeds (sample standard deviation), with the number of seeds if some have no value."""
    values = np.asarray(values)
    kept = values[~np.isnan(values)]
    if kept.size == 0:
        return "never"
    text = f"{kept.mean():.{digits}f}"
    if kept.size > 1:
        text += f" ± {kept.std(ddof=1):.{digits}f}"
    return text if kept.size == values.size else f"{text} ({kept.size} of {values.size})"


def plot_seeds(axis, x, values, floor: float | None = None, **style) -> None:
    """Mean over seeds as a line and their range as a band; values (seeds, T), raised to `floor` for a log axis."""
    values = np.asarray(values) if floor is None else np.maximum(values, floor)
    (line,) = axis.plot(x, values.mean(axis=0), lw=2, **style)
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.12, lw=0)


def tidy(*axes) -> None:
    """A faint grid and no box."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)


def legend_above(figure: Figure, axis, num_columns: int, title: str | None = None) -> None:
    """The axis' labels over the whole figure."""
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=num_columns, frameon=False, title=title)
