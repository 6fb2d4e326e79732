"""Where a run's wall-clock time goes, over all its sessions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


class Clock:
    """Seconds since the command started, those of earlier sessions included, and what took them.

    `dipod train` starts at `dipod_jax.STARTED`: what it imports counts, the start of Python itself does not. A
    run that Python code trains (`dipod_jax.train`, a sweep's worker) starts when it is asked for.
    """

    def __init__(self, started: float, *names: str):
        """Args:
        started: `time.perf_counter()` at which the command began.
        names: of the timings; `training_s` is one of them.
        """
        self._started = self._zero = started
        self.timings = dict.fromkeys(names, 0.0)
        self._timed_iterations = 0

    @property
    def wall_clock_s(self) -> float:
        """Seconds since the command started, those of earlier parts of a resumed run included."""
        return time.perf_counter() - self._zero

    def note_setup(self) -> None:
        """Note that set-up, which began with the command, ends now."""
        self.timings["setup_s"] = time.perf_counter() - self._started

    def add(self, name: str, since: float) -> float:
        """Add the seconds since `time.perf_counter()` was `since` to a timing; returns them."""
        elapsed = time.perf_counter() - since
        self.timings[name] += elapsed
        self._timed_iterations += name == "training_s"
        return elapsed

    def take_up(self, records: Sequence[dict[str, Any]], seed: int) -> None:
        """Continue where the records of earlier sessions end; the records of every seed hold the times, those of `seed`
        are read."""
        self._zero -= max((r["wall_clock_s"] for r in records), default=0.0)
        of_one_seed = [r for r in records if r["seed"] == seed]
        for name in self.timings:
            self.timings[name] += sum(r.get(name, 0.0) for r in of_one_seed)
        self._timed_iterations = sum("training_s" in r for r in of_one_seed)

    def rate(self, steps_per_iteration: int) -> float | None:
        """Env steps in a second of training; None before the first."""
        training_s = self.timings["training_s"]
        return self._timed_iterations * steps_per_iteration / training_s if training_s > 0 else None
