"""What a launcher is given and what it does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dipod_jax.checks import require
from dipod_jax.registry import Registry
from dipod_jax.studies.sweep.plan import Unit

WORKER = (sys.executable, "-m", "dipod_jax.launch.worker")
RELEASE_S = 300.0  # that a file system may take to give up the lock of a machine that is gone
SOME_FAILED = 3  # a worker's exit status; 1 is that of a Python that fails itself


@dataclass(frozen=True)
class Job:
    """Units of a planned sweep that are to be trained."""

    out: Path
    """the sweep's folder"""
    units: tuple[Unit, ...]
    session: str
    """names this command: a unit is tried anew in another"""
    workers: int | None = None
    """processes, or shards of a script; None: what is sensible"""
    ray_address: str | None = None

    @property
    def on_accelerator(self) -> bool:
        """Whether the units want an accelerator, all or none: in control by their physics, of a language model if this
        machine has one."""
        return self.units[0].config.on_accelerator


class Launcher:
    """Trains the units of a job, or writes the script that does."""

    name: ClassVar[str]
    waits: ClassVar[bool] = True
    """`submit` returns when no unit can be trained any more; else when the script is written"""
    options: ClassVar[tuple[str, ...]] = ()
    """those fields of `Job` that it reads of `workers`, `ray_address`"""

    def validate(self, job: Job) -> None:
        """Refuse what cannot be, before anything is written.

        Raises:
            ValueError: one line.
        """
        for option in ("workers", "ray_address"):
            if getattr(job, option) is not None and option not in self.options:
                what = f"left out with --launcher {self.name}"
                require(False, option.replace("_", "-"), getattr(job, option), what)
        require(job.workers is None or job.workers >= 1, "workers", job.workers, "at least 1")

    def submit(self, job: Job) -> None:
        """Have every unit trained that is not done.

        Raises:
            Stopped: asked to stop, once every run has saved.
            StorageError, MachineError: nothing can be trained.
        """
        raise NotImplementedError


LAUNCHERS: Registry[Launcher] = Registry("launcher")
register_launcher = LAUNCHERS.register


def find_launchers() -> Registry[Launcher]:
    """Every launcher of this package."""
    LAUNCHERS.discover("dipod_jax.launch")
    return LAUNCHERS


def worker_words(job: Job, planned: Sequence[Unit]) -> list[str]:
    """The command of a worker for the job: of its units alone where others are planned too."""
    ids = [unit.id for unit in job.units]
    return [*WORKER, str(job.out), *([] if len(ids) == len(planned) else ["--ids", *ids])]


def num_shards(job: Job, most: int = 1000) -> int:
    """Shards of a script: as asked for, or one a unit."""
    return min(len(job.units), job.workers or most)
