"""What one accelerator does in nine minutes: the tests marked gpu, speed over sizes and backends, a run of `paper`.

    make gpu            or            python -m benchmarks.gpu

1. The tests marked `gpu`, in a process of their own.
2. Env steps/s of acting, learning and the whole iteration at FPO's hyper-parameters, for each backend, number of
   environments and of seeds (vmapped), the most telling first, for at most half of the time. An iteration is cut to 30
   steps of each environment, with as many minibatches and epochs as the whole one has.
3. `paper` on BallInCup with each beta on the faster backend, one after the other, for what is left of the time.

What fails or finds no time is a row that says so. It needs no network, and with --smoke it runs in small on a CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row
from benchmarks._timing import Sample, Spread, rate
from dipod_jax.checks import Checked, check_number, check_selection, require
from dipod_jax.envs.tasks import check_task

if TYPE_CHECKING:
    from dipod_jax.training.programs import Programs
    from dipod_jax.training.state import TrainState

BACKENDS = ("mjx", "warp")
TESTS = "tests/envs/test_accelerator.py"  # all there are: collecting the others costs half a minute
SPEED_SHARE = 0.5  # of the budget, up to which cells are begun
TESTS_TIMEOUT_S = 150.0
NUM_STEPS, NUM_MINIBATCHES = 30, 32  # of a cell's iteration; the paper preset has 480 steps and 32 minibatches
STOP_S = 30.0  # a run that is told to stop saves within an iteration
LEAST_RUN_S = 20.0


@dataclass(frozen=True)
class GpuOptions(Options):
    """Nine minutes on one accelerator."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    backends: tuple[str, ...] = BACKENDS
    """physics to measure: mjx, warp"""
    num_envs: tuple[int, ...] = (2048, 8192, 512)
    """environments of each seed, each a multiple of 32, in the order of measurement"""
    num_seeds: tuple[int, ...] = (1, 8)
    """seeds trained at once, each >= 1"""
    betas: tuple[float, ...] = (0.0, 0.002)
    """of the runs of `paper`, each >= 0"""
    repeats: int = 3
    """calls of each program that are timed, >= 1"""
    budget_s: float = 540.0
    """seconds for everything, > 0"""
    smoke: bool = False
    """run in small, on any machine: 32 environments, 1 and 2 seeds, the smoke preset instead of paper"""

    def __post_init__(self):
        super().__post_init__()
        check_task(self.task)
        Checked(self).number("budget_s", open_low=True)
        check_selection("backends", self.backends, BACKENDS)
        check_selection("num-envs", self.num_envs)
        check_each(check_number, "num-seeds", self.num_seeds, 1)
        check_each(check_number, "betas", self.betas, 0)
        for num in self.num_envs:
            require(num > 0 and num % NUM_MINIBATCHES == 0, "num-envs", num, f"a multiple of {NUM_MINIBATCHES}")


def measure(options: GpuOptions) -> list[Row]:
    """All rows."""
    started = time.perf_counter()
    left = lambda share=1.0: share * options.budget_s - (time.perf_counter() - started)
    # The children of this process use the same device beside it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.smoke:
        options = replace(options, num_envs=(32,), num_seeds=(1, 2), repeats=1)
    rows = [_tests(min(TESTS_TIMEOUT_S, left()))]
    rows += _speeds(options, lambda: left(SPEED_SHARE))
    rows += _runs(options, _fastest(rows, options.backends), left)
    return rows


# 1. tests


def _tests(seconds: float) -> Row:
    """How long the tests marked gpu took, and pytest's last line."""
    before = time.perf_counter()
    # Nearly all of their time is compilation on the host: eight at once took 79 s where one by one did not end in 150.
    workers = ["-n", str(min(8, (os.cpu_count() or 1) // 2))]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", *workers, TESTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return _failure("tests marked gpu", "pytest", f"not done after {seconds:.0f} s")
    if done.returncode not in (0, 5):  # 5: none was selected
        print(done.stdout[-8000:], done.stderr[-2000:], file=sys.stderr)
        return _failure("tests marked gpu", "pytest", f"failed: {_last_line(done.stdout)}")
    return _row("tests marked gpu", "pytest", time.perf_counter() - before, "s", _last_line(done.stdout))


# 2. speed


def _speeds(options: GpuOptions, left: Callable[[], float]) -> Iterator[Row]:
    """Rows of every cell that is begun while time is left."""
    from benchmarks._setup import set_up

    set_up()
    for num_seeds in options.num_seeds:
        for num_envs in options.num_envs:
            for backend in options.backends:
                what = f"{options.task} {num_envs} envs, {num_seeds} seed{'s' if num_seeds > 1 else ''}"
                if left() <= 0:
                    yield _failure(what, backend, "not measured: no time left")
                    continue
                try:
                    yield from _cell(options, what, backend, num_envs, num_seeds)
                except Exception as error:  # the other cells are still worth knowing
                    traceback.print_exc()
                    yield _failure(what, backend, f"failed: {_last_line(str(error)) or type(error).__name__}")


def _cell(options: GpuOptions, what: str, backend: str, num_envs: int, num_seeds: int) -> Iterator[Row]:
    """Acting, learning and the whole, timed one after the other; compilation is in the note."""
    before = time.perf_counter()
    programs = _programs(options, backend, num_envs, num_seeds)
    state, work = programs.init(), float(num_seeds * num_envs * NUM_STEPS)
    state, _ = _timed_iteration(programs, state)  # compiles
    note = f"ready after {time.perf_counter() - before:.0f} s"
    samples: dict[str, list[Sample]] = {"acting": [], "learning": [], "whole": []}
    for _ in range(options.repeats):
        state, seconds = _timed_iteration(programs, state)
        for name, own in samples.items():
            own.append(Sample(seconds[name], 0.0, work))
    for name, own in samples.items():
        yield Row(what, f"{backend} {name}", rate(own), "env steps/s", samples=own, note=note)


def _timed_iteration(programs: Programs, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """One iteration, and the seconds of its two halves and of all of it."""
    import jax

    learner, actor = jax.block_until_ready(state)
    start = time.perf_counter()
    actor, transitions = jax.block_until_ready(programs.act(learner, actor))
    acted = time.perf_counter()
    learner, _ = jax.block_until_ready(programs.learn(learner, transitions))
    end = time.perf_counter()
    seconds = {"acting": acted - start, "learning": end - acted, "whole": end - start}
    return state._replace(learner=learner, actor=actor), seconds


def _programs(options: GpuOptions, backend: Any, num_envs: int, num_seeds: int) -> Programs:
    from benchmarks._setup import programs_of

    minibatches = 1 if options.smoke else NUM_MINIBATCHES
    changes = {
        "rollout.num_envs": num_envs,
        "rollout.num_steps": NUM_STEPS,
        "learning.minibatch_size": num_envs * NUM_STEPS // minibatches,
    }
    if options.smoke:
        changes["learning.num_epochs"] = 1
    return programs_of("paper", options.task, backend, changes, num_seeds=num_seeds)


def _fastest(rows: list[Row], backends: tuple[str, ...]) -> str:
    """The backend with the highest rate of whole iterations among the cells that were measured."""
    rates = {
        backend: max((r.value.median for r in rows if r.variant == f"{backend} whole"), default=0.0)
        for backend in backends
    }
    return max(rates, key=lambda backend: rates[backend])


# 3. runs


def _runs(options: GpuOptions, backend: str, left: Callable[[], float]) -> Iterator[Row]:
    """One run for each beta, each stopped after its share of the time that is left."""
    for index, beta in enumerate(options.betas):
        seconds = (left() - STOP_S) / (len(options.betas) - index)
        what = f"{options.task} {'smoke' if options.smoke else 'paper'} beta {beta:g}"
        if seconds < LEAST_RUN_S:
            yield _failure(what, backend, "not run: no time left")
            continue
        folder = options.folder / f"beta{beta:g}"
        status, output = _train(options, backend, beta, folder, seconds)
        yield from _run_rows(what, backend, folder, status, output)


def _train(options: GpuOptions, backend: str, beta: float, folder: Path, seconds: float) -> tuple[int, str]:
    """Train, tell it to stop after so many seconds, and return its exit status and the end of what it printed."""
    preset = ["--preset", "smoke" if options.smoke else "paper"]
    more = [] if options.smoke else ["--evaluation.interval", "2000000"]
    command = [sys.executable, "-m", "experiments.train", "--task", options.task, "--backend", backend, *preset]
    command += ["--beta", str(beta), "--logger", "none", "--out", str(folder), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return process.returncode, output


def _run_rows(what: str, backend: str, folder: Path, status: int, output: str) -> Iterator[Row]:
    """The newest evaluation, and env steps/s of the iterations."""
    records = _records(folder / "metrics.jsonl")
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    training = [r for r in records if r["kind"] == "train"]
    if status not in (0, 128 + signal.SIGTERM):
        print(output[-8000:], file=sys.stderr)
    if not evaluations or not training:
        yield _failure(what, backend, f"ended with status {status}: {_last_line(output)}")
        return
    last, steps = evaluations[-1], training[-1]["env_steps"]
    note = f"at {last['env_steps'] / 1e6:.2f}M env steps, {last['wall_clock_s']:.0f} s; best "
    note += f"{max(e['return_mean'] for e in evaluations):.0f}; zero noise {last['zero_noise_return_mean']:.0f}"
    yield _row(what, backend, last["return_mean"], "return", note)
    rate = steps / sum(r["training_s"] for r in training)
    yield _row(what, backend, rate, "env steps/s", f"{steps / 1e6:.2f}M env steps; ended with status {status}")


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _row(what: str, variant: str, value: float, unit: str, note: str) -> Row:
    return Row(what, variant, Spread.of([value]), unit, note=note)


def _failure(what: str, variant: str, note: str) -> Row:
    return _row(what, variant, 0.0, "", note)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


if __name__ == "__main__":
    run("gpu", GpuOptions, measure)
