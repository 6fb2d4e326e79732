"""Timing on a machine that drifts: variants take turns, and what is reported is the ratio within each turn.

The loop is our own since pyperf, pytest-benchmark and richbench finish one variant before they begin the next, and
google-benchmark, which can shuffle them, pairs none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Variant: TypeAlias = tuple[Callable[[], Any], float]  # a call that returns when its work is done; the units it does


@dataclass(frozen=True)
class Sample:
    """One timed call."""

    seconds: float
    cpu_seconds: float  # of all threads of this process; barely moves when other processes take the cores
    work: float = 1.0  # units done in it


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def interleave(variants: Mapping[str, Variant], repeats: int, warm_ups: int = 1) -> dict[str, list[Sample]]:
    """Time each variant once per turn, A B C, then C B A, and so on: slow drift cancels in the ratios.

    Args:
        variants: by name.
        repeats: turns, >= 1.
        warm_ups: calls of each before the first turn, for compilation and caches.
    """
    for function, _ in variants.values():
        for _ in range(warm_ups):
            function()
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for turn in range(repeats):
        for name in list(variants)[:: 1 if turn % 2 == 0 else -1]:
            function, work = variants[name]
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            samples[name].append(Sample(time.perf_counter() - wall, time.process_time() - cpu, work))
    return samples


def rate(samples: Sequence[Sample]) -> Spread:
    """Units of work a second."""
    return Spread.of([s.work / s.seconds for s in samples])


def speed_ratio(samples: Sequence[Sample], baseline: Sequence[Sample], *, of_cpu_time: bool = False) -> Spread:
    """How many times the baseline's work a second, turn by turn; of CPU time instead of wall-clock where asked."""
    cost = lambda s: (s.cpu_seconds if of_cpu_time else s.seconds) / s.work
    return Spread.of([cost(b) / max(cost(a), 1e-12) for a, b in zip(samples, baseline, strict=True)])
