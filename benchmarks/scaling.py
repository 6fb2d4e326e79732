"""Weak scaling: more devices with as much more work, and more environments on the devices there are.

    python -m benchmarks.scaling

- `seeds`: one seed a device, over 1, 2, 4, ... devices. Nothing is exchanged; the target is .9 of linear.
- `devices`: one seed whose environments are spread over 1, 2, 4, ... devices, as many to each.
- `environments`: one seed on all devices, with 64 to 8192 environments and minibatches that grow with them.

A CPU is one device for each core, and each variant of the first two parts gets as many cores as devices: physics steps
on threads of its own, which would else take the cores that the smaller variant is measured without. Run it on an idle
machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row, compare
from benchmarks._setup import set_up
from benchmarks._timing import interleave
from benchmarks.end_to_end import Training
from dipod_jax.checks import Checked, check_choice, check_number
from dipod_jax.config import Backend, Preset
from dipod_jax.envs.tasks import check_task
from dipod_jax.options import override
from dipod_jax.presets import make_config
from dipod_jax.training.programs import make_programs
from dipod_jax.training.sharding import Layout

PARTS = ("seeds", "devices", "environments")
SEEDS_TARGET = 0.9


@dataclass(frozen=True)
class ScalingOptions(Options):
    """Env steps/s of whole iterations, over devices and over environments."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    preset: Preset = "cpu"
    """preset of every part"""
    parts: tuple[str, ...] = PARTS
    """what to measure: seeds, devices, environments"""
    num_envs: int = 256
    """environments of a seed in `seeds`, and on each device in `devices`, >= 16 and a multiple of 8"""
    environments: tuple[int, ...] = (64, 256, 1024, 4096, 8192)
    """numbers of environments, each >= 16 and a multiple of 8, the first being what the others are compared with"""

    def __post_init__(self):
        super().__post_init__()
        check_task(self.task)
        check_each(check_choice, "parts", self.parts, PARTS)
        check_each(check_number, "environments", self.environments, 16)
        check = Checked(self)
        check.choices()
        check.number("num_envs", low=16)
        what = "multiples of 8"
        check.require(all(n % 8 == 0 for n in (self.num_envs, *self.environments)), "environments", what)


def measure(options: ScalingOptions) -> list[Row]:
    """All rows."""
    backend = set_up()
    measures = {"seeds": _seeds, "devices": _devices, "environments": _environments}
    return [row for part in options.parts for row in measures[part](options, backend)]


def _training(
    options: ScalingOptions, backend: Backend, num_envs: int, num_seeds: int, shape: tuple[int, int]
) -> Training:
    """A run over (seed, data) devices; four minibatches an epoch, whatever the number of environments."""
    config, _ = make_config(options.preset, options.task, "fpo", backend)
    minibatch = num_envs * config.rollout.num_steps // 4
    config = override(config, {"rollout.num_envs": num_envs, "learning.minibatch_size": minibatch})
    layout = Layout.on(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape))
    return Training(make_programs(config, tuple(range(num_seeds)), layout))


def _counts() -> list[int]:
    """1, 2, 4, ... devices."""
    return [2**n for n in range(len(jax.devices()).bit_length())]


def on_cores(count: int, call: Callable[[], None]) -> Callable[[], None]:
    """The call with all threads of this process on the first `count` cores that it may use; on an accelerator, and
    where the system cannot do that, the call as it is."""
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return call

    def confined() -> None:
        available = os.sched_getaffinity(0)
        try:
            _move_threads(set(sorted(available)[:count]))
            call()
        finally:
            _move_threads(available)

    return confined


def _move_threads(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.sched_setaffinity(int(thread), cores)


def _rows(
    what: str, runs: Mapping[str, tuple[int | None, Training]], options: ScalingOptions, targets: dict[str, float]
) -> list[Row]:
    """A row for each run; with a number, on as many cores."""
    call = lambda cores, run: on_cores(cores, run.iterate) if cores else run.iterate
    variants = {name: (call(cores, run), run.work) for name, (cores, run) in runs.items()}
    samples = interleave(variants, options.repeats)
    return compare(f"{options.task} {options.preset} {what}", samples, next(iter(runs)), targets=targets)


def _seeds(options: ScalingOptions, backend: Backend) -> list[Row]:
    """One seed a device: env steps/s of all together."""
    name = lambda n: f"{n} on {n} device{'s' if n > 1 else ''}"
    runs = {name(n): (n, _training(options, backend, options.num_envs, n, (n, 1))) for n in _counts()}
    return _rows("seeds", runs, options, {name(n): SEEDS_TARGET * n for n in _counts()[1:]})


def _devices(options: ScalingOptions, backend: Backend) -> list[Row]:
    """One seed, as many environments on each of its devices."""
    runs = {
        f"{n * options.num_envs} environments on {n}": (n, _training(options, backend, n * options.num_envs, 1, (1, n)))
        for n in _counts()
    }
    return _rows("one seed", runs, options, {})


def _environments(options: ScalingOptions, backend: Backend) -> list[Row]:
    """One seed on all devices."""
    devices = _counts()[-1]
    shape = (1, max(n for n in (1, 2, 4, 8) if n <= devices))
    runs = {f"{n} environments": (None, _training(options, backend, n, 1, shape)) for n in options.environments}
    return _rows("environments", runs, options, {})


if __name__ == "__main__":
    run("scaling", ScalingOptions, measure)
