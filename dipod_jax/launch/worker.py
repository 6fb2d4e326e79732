"""A worker: takes units of a planned sweep that nobody has and trains them, until there are none.

`python -m dipod_jax.launch.worker OUT [--ids ID ...] [--shard [i/n]]`: as many at once as one likes, on every machine
that sees the folder. Status 0: what it could take is done; 3: some of that failed; 130 or 143: stopped and saved.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dipod_jax.checks import check_selection
from dipod_jax.cli import run_cli
from dipod_jax.launch.base import RELEASE_S, SOME_FAILED
from dipod_jax.runs.lock import LOCK, FolderLock
from dipod_jax.studies.sweep.plan import Unit, read_plan
from dipod_jax.studies.sweep.rooms import program_key
from dipod_jax.studies.sweep.shards import parse_shard
from dipod_jax.studies.sweep.states import TRIES, failures, is_done, take
from dipod_jax.studies.sweep.trainer import Trainer, attempt

LOOK_AGAIN_S = 0.1
TRAINING = ": training"  # after a unit's name: the last such line says what a worker had when it died


@dataclass(frozen=True)
class Options:
    """What a worker is started with."""

    units: tuple[Unit, ...]
    session: str
    cores: tuple[int, ...]
    """the CPU cores it keeps to; all where empty"""
    with_parent: bool
    """it ends, saved, when its standard input does"""
    waits: bool
    """nobody else does its part: it waits for units that a lost machine seems to have"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and work."""
    run_cli(parse, start, argv, lasts=True)


def parse(arguments: list[str]) -> Options:
    """The units of the plan that the worker may take.

    Raises:
        ValueError, RunFolderError: one line.
    """
    parser = _Parser(prog="python -m dipod_jax.launch.worker", allow_abbrev=False)
    parser.add_argument("out", type=Path, help="the sweep's folder")
    parser.add_argument("--ids", nargs="+", help="of the units to train; all by default")
    parser.add_argument("--shard", nargs="?", const="", help="i/n; without a value, as Slurm or Kubernetes says")
    parser.add_argument("--session", default=_session(), help="a unit that failed twice in a session is left alone")
    parser.add_argument("--cores", nargs="+", type=int, default=(), help="CPU cores to keep to")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    known = parser.parse_args(arguments)
    units = read_plan(known.out)
    if known.ids is not None:
        check_selection("ids", known.ids, [unit.id for unit in units])
        units = [unit for unit in units if unit.id in known.ids]
    if known.shard is not None:
        units = parse_shard(known.shard).of(units)
    return Options(tuple(units), known.session, tuple(known.cores), known.with_parent, known.shard is not None)


class _Parser(argparse.ArgumentParser):
    """One whose refusals are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError in place of printing the usage."""
        raise ValueError(message)


def _session() -> str:
    """A Slurm array's jobs are one session, requeued ones too; elsewhere each worker is its own."""
    return os.environ.get("SLURM_ARRAY_JOB_ID") or secrets.token_hex(4)


def start(options: Options) -> None:
    """Work as `options` say; raises SystemExit with status 3 where a unit failed."""
    faulthandler.enable()
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    if options.with_parent:
        threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    if not (work_and_wait if options.waits else work)(options.units, options.session, Trainer()):
        sys.exit(SOME_FAILED)


def work_and_wait(units: Sequence[Unit], session: str, trainer: Trainer) -> bool:
    """`work`; then train what others seem to have as it becomes free, for as long as a file system may need to give up
    the lock of a machine that is gone. Returns whether all units are done, and names those that are not."""
    work(units, session, trainer)
    left = lambda: [unit for unit in units if not is_done(unit) and len(failures(unit, session)) < TRIES]
    deadline = time.monotonic() + RELEASE_S
    while left() and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
        work(units, session, trainer)
    for unit in left():
        print(f"{unit.name}: not done; another process has it", flush=True)
    return all(is_done(unit) for unit in units)


def _stop_with_parent() -> None:
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def work(units: Sequence[Unit], session: str, trainer: Trainer) -> bool:
    """Train every unit that can be taken; returns whether all that were tried are done."""
    tried: dict[str, Unit] = {}
    while (taken := take_next(units, session, trainer)) is not None:
        unit, lock = taken
        tried[unit.id] = unit
        try:
            if lock.taken_over_from is not None:
                print(f"{unit.name}: continuing for {lock.taken_over_from}", flush=True)
            print(f"{unit.name}{TRAINING}", flush=True)
            failure = attempt(unit, session, trainer)
            print(f"{unit.name}: {'done' if failure is None else f'failed: {failure}'}", flush=True)
        finally:
            lock.release()
    return all(is_done(unit) for unit in tried.values())


def take_next(units: Sequence[Unit], session: str, trainer: Trainer) -> tuple[Unit, FolderLock] | None:
    """A unit that is neither done nor given up nor another's, with the right to train it; None where there is none.

    First comes one whose program is compiled, then one whose program nobody seems to have, in the plan's order. Who
    looks at a lock holds it for an instant, so what could not be taken is tried once more.
    """
    for _ in range(2):
        left = [unit for unit in units if not is_done(unit) and len(failures(unit, session)) < TRIES]
        for unit in in_order(left, trainer.key):
            if (lock := take(unit)) is None:
                continue
            if not is_done(unit):  # by now
                return unit, lock
            lock.release()
        time.sleep(LOOK_AGAIN_S if left else 0.0)
    return None


def in_order(units: Sequence[Unit], held: str | None) -> list[Unit]:
    """Units whose program is `held` first, then those whose program no unit has that somebody trains."""
    keys = {unit.id: program_key(unit.config) for unit in units}
    others = {keys[unit.id] for unit in units if (unit.logs / LOCK).exists()}
    return sorted(units, key=lambda unit: (keys[unit.id] != held, keys[unit.id] in others))


if __name__ == "__main__":
    main()
