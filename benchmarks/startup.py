"""Start-up: seconds from the command to the end of the first training iteration, with an empty and a warm cache.

    python -m benchmarks.startup

The command is a user's, in a process of its own; it is ended when its metrics show the first iteration. The evaluation
before the first update is part of it, and told apart.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks._command import Options, run
from benchmarks._report import Row
from benchmarks._timing import Sample, Spread
from dipod_jax.checks import Checked
from dipod_jax.config import Preset
from dipod_jax.envs.tasks import check_task

TARGETS_S = {"empty": 60.0, "warm": 15.0}


@dataclass(frozen=True)
class StartupOptions(Options):
    """Wall-clock from command to the first training iteration."""

    repeats: int = 2
    """starts with a warm cache, after one with an empty cache, >= 1"""
    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    preset: Preset = "auto"
    """preset of the command"""
    timeout: float = 240.0
    """seconds after which a start is given up, > 0"""

    def __post_init__(self):
        super().__post_init__()
        check_task(self.task)
        Checked(self).choices()
        Checked(self).positive("timeout")


def measure(options: StartupOptions) -> list[Row]:
    """Rows for the two caches: to the first iteration, and the run's own clock at its first evaluation."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for cache, repeats in (("empty", 1), ("warm", options.repeats)):
            starts = [start(options, Path(scratch), f"{cache}{i}") for i in range(repeats)]
            samples, what = [sample for sample, _ in starts], f"start, {cache} compile cache"
            total = Spread.of([sample.seconds for sample in samples])
            rows.append(Row(what, "first iteration", total, "s", target=TARGETS_S[cache], samples=samples))
            rows.append(Row(what, "CPU time", Spread.of([sample.cpu_seconds for sample in samples]), "s"))
            evaluated = Spread.of([clock["evaluation"] for _, clock in starts])
            rows.append(Row(what, "first evaluation", evaluated, "s", note="part of the first row"))
    return rows


def start(options: StartupOptions, scratch: Path, name: str) -> tuple[Sample, dict[str, float]]:
    """Start the command, watch its metrics, end it after the first iteration; the time that took and `clock`."""
    out, log = scratch / name, scratch / f"{name}.log"
    command = [sys.executable, "-m", "experiments.train", "--task", options.task, "--preset", options.preset]
    # The environment's cache, written as eagerly as the default one is (see `prepare_jax`).
    cache = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    began, cpu = time.perf_counter(), _children_cpu()
    with log.open("w") as said:
        command += ["--beta", "0.002", "--logger", "none", "--out", str(out)]
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | cache)
        try:
            while (found := clock(out / "metrics.jsonl")) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended early:\n{log.read_text()}")
                if time.perf_counter() - began > options.timeout:
                    raise TimeoutError(f"no iteration within {options.timeout:g} s")
                time.sleep(0.02)
            seconds = time.perf_counter() - began
        finally:
            process.kill()
            process.wait()
    return Sample(seconds, _children_cpu() - cpu), found


def clock(path: Path) -> dict[str, float] | None:
    """A run's own clock at its first record of each kind; None before the first iteration is written."""
    if not path.exists():
        return None
    complete = path.read_text().rpartition("\n")[0].splitlines()
    first: dict[str, float] = {}
    for record in map(json.loads, complete):
        first.setdefault(record["kind"], record["wall_clock_s"])
    return first if "train" in first else None


def _children_cpu() -> float:
    """CPU seconds of every child that has been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run("startup", StartupOptions, measure)
