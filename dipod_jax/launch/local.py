"""Processes on this machine: on a CPU one a core, as small operations gain less from threads than from company."""

from __future__ import annotations

import signal
import time

from dipod_jax.launch.base import SOME_FAILED, Job, Launcher, register_launcher, worker_words
from dipod_jax.launch.board import Board
from dipod_jax.launch.pool import Ended, Pool
from dipod_jax.launch.worker import TRAINING
from dipod_jax.machine import available_cores, machine_bytes
from dipod_jax.runs.errors import MachineError, StorageError
from dipod_jax.runs.signals import stop_requested
from dipod_jax.studies.sweep.plan import LOGS, Unit, read_plan
from dipod_jax.studies.sweep.states import is_done, owner_of, record_failure

POLL_S = 0.5
WORKER_BYTES = 3 * 2**29  # of a process that trains `cpu` with three seeds: 1.0 to 1.2 GiB
# A worker's statuses: nothing left to take, some units failed, asked to stop (also where it had nothing to save).
ORDERLY = (0, SOME_FAILED, 130, 143, -signal.SIGTERM)


@register_launcher("local")
class Local(Launcher):
    """Worker processes on this machine, and a table of how far they are."""

    options = ("workers",)

    def submit(self, job: Job) -> None:
        """Train here; a worker that dies is replaced, and its unit has failed once."""
        size = min(job.workers or sensible_workers(job), len(job.units))
        words = [*worker_words(job, read_plan(job.out)), "--session", job.session]
        pool = Pool(words, size, job.out / LOGS, job.session, pinned=not job.on_accelerator)
        with stop_requested() as stop, Board(job) as board:
            try:
                while True:
                    board.look()
                    for ended in pool.reap():
                        if ended.status not in ORDERLY and not note_death(job, ended):
                            shrink(pool, board, ended)
                    if stop.is_set():
                        board.line("stopping: every run saves what it has ...")
                        pool.stop()
                        raise stop.stopped()
                    if not board.num_left:
                        return
                    fill(pool, board)
                    time.sleep(POLL_S)
            finally:
                pool.stop()


def sensible_workers(job: Job) -> int:
    """One a core, no more than units to train or than there is memory for; one for an accelerator."""
    left = sum(not is_done(unit) for unit in job.units)
    return 1 if job.on_accelerator else max(1, min(available_cores(), left, machine_bytes() // WORKER_BYTES))


def fill(pool: Pool, board: Board) -> None:
    """Start workers while there are units that wait for one."""
    own = sum(owner_of(unit) in pool.pids for unit in board.running)
    while board.num_waiting > 0 and len(pool) < min(pool.size, own + board.num_waiting):
        pool.start()


def shrink(pool: Pool, board: Board, ended: Ended) -> None:
    """Go on with a process less, as one was killed that had nothing to train: most likely for its memory.

    Raises:
        MachineError: it was the last.
    """
    pool.size -= 1
    how = f"a worker with no run in hand was killed by {signal.Signals(-ended.status).name}"
    if pool.size == 0:
        raise MachineError(f"{how}; it said: {ended.last_line()} ({ended.log})")
    board.line(f"{how}; going on with {pool.size}")


def note_death(job: Job, ended: Ended) -> bool:
    """Count it against the unit that a worker had when it died; returns whether it had one.

    Raises:
        StorageError, MachineError: it ended for a reason that no other worker would escape.
    """
    if ended.status == StorageError.EXIT_STATUS:
        raise StorageError(ended.last_line().removeprefix("error: "))
    how = f"killed by {signal.Signals(-ended.status).name}" if ended.status < 0 else f"ended with {ended.status}"
    had = unit_of(job, ended)
    if ended.status == 2 or (had is None and ended.status > 0):
        raise MachineError(f"a worker {how}: {ended.last_line().removeprefix('error: ')} ({ended.log})")
    if had is not None:
        record_failure(had, job.session, f"its worker, process {ended.pid}, was {how}")
    return had is not None


def unit_of(job: Job, ended: Ended) -> Unit | None:
    """The unit that a worker had begun last, unless it is done; another may have taken it over since."""
    names = [line.removesuffix(TRAINING) for line in ended.lines() if line.endswith(TRAINING)]
    return next((unit for unit in job.units if names and unit.name == names[-1] and not is_done(unit)), None)
