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

from benchmarks._command import Options, require_tasks, run
from dipod_jax.checks import require

COLD_TARGET_S, WARM_TARGET_S = 60.0, 15.0


@dataclass(frozen=True)
class StartupOptions(Options):
    """Wall-clock from command to the first training iteration."""

    repeats: int = 2
    """starts with a warm cache, after one with an empty cache, >= 1"""
    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    preset: str = "auto"
    """preset of the command: auto, cpu, paper or smoke"""
    timeout: float = 240.0
    """seconds after which a start is given up, > 0"""

    def __post_init__(self):
        super().__post_init__()
        require_tasks("task", (self.task,))
        require(self.preset in ("auto", "cpu", "paper", "smoke"), "preset", self.preset, "auto, cpu, paper, smoke")
        require(self.timeout > 0, "timeout", self.timeout, "more than 0")


def measure(options: StartupOptions) -> list:
    """Rows for the two caches: to the first iteration, and to the records before it."""
    from benchmarks._report import Row
    from benchmarks._timing import Sample, Spread

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, repeats, target in (("empty", 1, COLD_TARGET_S), ("warm", options.repeats, WARM_TARGET_S)):
            starts = [start(options, Path(scratch), f"{name}{i}") for i in range(repeats)]
            what = f"start, {name} compile cache"
            total = [s["from_command"] for s in starts]
            samples = [Sample(s["from_command"], s["cpu"]) for s in starts]
            rows.append(Row(what, "first iteration", Spread.of(total), "s", target=target, samples=samples))
            rows += [
                Row(what, label, Spread.of([s[key] for s in starts]), "s", note=note)
                for label, key, note in (
                    ("first iteration, run's clock", "iteration", "wall_clock_s in metrics.jsonl"),
                    ("first evaluation", "evaluation", "wall_clock_s in metrics.jsonl; part of the above"),
                    ("CPU time", "cpu", "of all threads: what other processes on the machine do not lengthen"),
                )
            ]
    return rows


def start(options: StartupOptions, scratch: Path, name: str) -> dict[str, float]:
    """Start the command, watch its metrics, end it after the first iteration.

    Returns:
        Seconds `from_command` to the first iteration as seen from outside, and the run's own clock at the first
        `evaluation` and the first `iteration`; `cpu` seconds of all its threads.
    """
    out = scratch / name
    command = [sys.executable, "-m", "experiments.train", "--task", options.task, "--preset", options.preset]
    # The environment's cache, written as eagerly as the default one is (see `prepare_jax`).
    cache = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    started = time.perf_counter()
    with (scratch / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--beta", "0.002", "--logger", "none", "--out", str(out)],
            stdout=log,
            stderr=log,
            env=os.environ | cache,
        )
        try:
            while (times := _times(out / "metrics.jsonl")) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended early:\n{(scratch / f'{name}.log').read_text()}")
                if time.perf_counter() - started > options.timeout:
                    raise TimeoutError(f"no iteration within {options.timeout:g} s")
                time.sleep(0.02)
            times["from_command"] = time.perf_counter() - started
        finally:
            process.kill()
            before = _children_cpu()
            process.wait()
    return times | {"cpu": _children_cpu() - before}


def _children_cpu() -> float:
    """CPU seconds of every child that has been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _times(path: Path) -> dict[str, float] | None:
    """The clock at the first evaluation and iteration; None before the latter is written."""
    if not path.exists():
        return None
    complete = path.read_text().rpartition("\n")[0].splitlines()
    records = [json.loads(line) for line in complete]
    first = {kind: [r["wall_clock_s"] for r in records if r["kind"] == kind] for kind in ("evaluation", "train")}
    if not first["train"]:
        return None
    return {"evaluation": first["evaluation"][0], "iteration": first["train"][0]}


if __name__ == "__main__":
    run("startup", StartupOptions, measure)
