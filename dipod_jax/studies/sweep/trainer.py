"""Training units one after the other in one process, in one compiled program for as long as the next one fits it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dipod_jax.runs import RunFolderError, StorageError, check_unused, reason_of
from dipod_jax.runs.errors import MachineError
from dipod_jax.studies.sweep.plan import Unit
from dipod_jax.studies.sweep.rooms import AnyConfig, room_of
from dipod_jax.studies.sweep.states import LOG, is_done, record_failure


class Trainer:
    """Trains units, holding the last compiled program."""

    def __init__(self) -> None:
        self.key: str | None = None
        """of the program that is held"""
        self._programs: Any = None

    def train(self, unit: Unit) -> None:
        """Begin the unit's run or go on with it; raises as the `loop.train` of its room."""
        started = time.perf_counter()
        os.environ.setdefault("WANDB_RUN_GROUP", unit.sweep.absolute().name)
        config = to_continue(unit)
        room = room_of(config)
        room.prepare(config)
        room.train(config, self._programs_of(config), started)

    def _programs_of(self, config: AnyConfig) -> Any:
        room = room_of(config)
        if self._programs is None or self.key != room.program_key(config):
            import jax

            self._programs, self.key = None, None  # another's would only take memory
            jax.clear_caches()
            self._programs = room.make_programs(config)
            self.key = room.program_key(config)
        return room.adapted(self._programs, config)


def to_continue(unit: Unit) -> AnyConfig:
    """The config with which the unit's run begins, or goes on where it has trained already."""
    try:
        check_unused(unit.folder)
    except RunFolderError:
        return dataclasses.replace(unit.config, resume=True)
    return unit.config


def attempt(unit: Unit, session: str, trainer: Trainer) -> str | None:
    """Train a unit that the caller has taken; returns why it failed, which is recorded, or None.

    Raises:
        StorageError, MachineError: what no other unit could do either, a full disk or a missing device.
        KeyboardInterrupt: the run was asked to stop, and has saved.
    """
    try:
        with output_in(unit.logs / LOG):
            trainer.train(unit)
    except (StorageError, MachineError):
        raise
    except Exception as error:
        if is_done(unit):  # of some seeds, which its result names
            return None
        reason = f"{type(error).__name__}: {reason_of(error)}"
        record_failure(unit, session, reason)
        return reason
    return None


@contextlib.contextmanager
def output_in(path: Path) -> Iterator[None]:
    """What this process prints, its libraries included, goes to the end of a file; an exception's traceback too."""
    with path.open("ab") as file, _descriptor(1, file.fileno()), _descriptor(2, file.fileno()):
        try:
            yield
        except Exception:
            with contextlib.suppress(OSError):  # of a full disk, which must not take the place of what went wrong
                traceback.print_exc()
            raise


@contextlib.contextmanager
def _descriptor(number: int, other: int) -> Iterator[None]:
    """`number` is a copy of `other` meanwhile, and of what Python holds back for it each part goes where it belongs."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # likewise
            stream.flush()
        os.dup2(kept, number)
        os.close(kept)
