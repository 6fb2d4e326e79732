"""From evaluations to the numbers of `result.json` and to the lines that a run shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLDS = (500, 700, 900)
# Tasks whose reset ignores its key: an interval over episodes then holds policy noise only.
SINGLE_START_TASKS = ("BallInCup", "HumanoidRun", "HumanoidStand", "HumanoidWalk")


def start_note(task: str) -> str | None:
    """A caution to show beside an interval over a task's episodes, or None."""
    if task in SINGLE_START_TASKS:
        return f"{task} always starts in the same state: episodes differ by the policy's noise only"
    return None


def interval95(samples: np.ndarray) -> list[float] | None:
    """Student's 95 % interval of the mean of n samples (n,): mean +- t_{.975, n-1} s / sqrt(n); None for n < 2."""
    from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to import

    n = len(samples)
    if n < 2:
        return None
    half = float(stdtrit(n - 1, 0.975) * samples.std(ddof=1) / math.sqrt(n))
    mean = float(samples.mean())
    return [mean - half, mean + half]


def summarise(returns: np.ndarray) -> dict[str, Any]:
    """Mean, interval and per-seed means of returns (S, E).

    The interval is over seeds, or over the episodes of a single seed; `ci95_over` says which.
    """
    per_seed = returns.mean(1)
    several = len(per_seed) > 1
    return {
        "mean": float(per_seed.mean()),
        "ci95": interval95(per_seed if several else returns[0]),
        "ci95_over": "seeds" if several else "episodes",
        "per_seed": [float(x) for x in per_seed],
    }


def evaluation_record(random_noise: np.ndarray, zero_noise: np.ndarray) -> dict[str, Any]:
    """One seed's evaluation as kept in `metrics.jsonl`, from returns (E,) with random base noise and with base noise
    0."""
    bounds = interval95(random_noise)
    return {
        "return_mean": float(random_noise.mean()),
        "return_ci95": None if bounds is None else (bounds[1] - bounds[0]) / 2,
        "return_std": float(random_noise.std()),
        "zero_noise_return_mean": float(zero_noise.mean()),
        "num_episodes": len(random_noise),
    }


def seconds_to(evaluations: list[dict[str, Any]], seeds: tuple[int, ...]) -> dict[str, list[float | None]]:
    """Wall-clock seconds until an evaluation's mean return first reached each threshold; per seed, None where never."""

    def first(seed: int, threshold: float) -> float | None:
        times = [e["wall_clock_s"] for e in evaluations if e["seed"] == seed and e["return_mean"] >= threshold]
        return min(times, default=None)

    return {str(threshold): [first(seed, threshold) for seed in seeds] for threshold in THRESHOLDS}


def best_and_last(evaluations: list[dict[str, Any]], seeds: tuple[int, ...]) -> dict[str, list[float]]:
    """Best and last evaluation return of each seed: a last return far below the best shows a collapse."""
    by_seed = [[e["return_mean"] for e in evaluations if e["seed"] == seed] for seed in seeds]
    return {"best": [max(r) for r in by_seed], "last": [r[-1] for r in by_seed]}


def evaluation_line(wall_clock_s: float, env_steps: int, returns: Any) -> str:
    """The line that shows an evaluation, whose `returns` are (S, E)."""
    per_seed = returns.random_noise.mean(1)
    return (
        f"{wall_clock_s:7.1f} s  {env_steps / 1e6:6.2f}M env steps  return {returns.random_noise.mean():6.1f}"
        f"  zero noise {returns.zero_noise.mean():6.1f}"
        + (f"  seeds {' '.join(f'{x:.0f}' for x in per_seed)}" if len(per_seed) > 1 else "")
        + f"  ({returns.random_noise.shape[1]} episodes)"
    )


def times_line(wall_clock_s: float, timings: Mapping[str, float]) -> str:
    """The line that shows where the time went, under the names that it has in `result.json`.

    `artifacts_s`, the figures, films and report, is not in that file: it is written before they are.
    """
    return f"wall_clock_s {wall_clock_s:.1f}: " + ", ".join(f"{name} {value:.1f}" for name, value in timings.items())


def final_line(result: dict[str, Any], path: Path) -> str:
    """The line that shows a result, as read from its file, of the run in the folder `path`."""
    shown = lambda value: "unknown" if value is None else f"{value:.1f}"
    final, zero = (shown(result[name]["mean"]) for name in ("final_return", "final_return_zero_noise"))
    rate = result["env_steps_per_s"]
    speed = "" if rate is None else f"{rate:.0f} env steps/s; "
    return f"final return {final}, zero noise {zero}, {speed}everything is in {path}"
