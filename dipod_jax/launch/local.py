"""Processes on this machine: on a CPU one a core, as small operations gain less from threads than from company."""

from __future__ import annotations

import signal
import time

from dipod_jax.launch.base import SOME_FAILED, Job, Launcher, register_launcher, worker_words
from dipod_jax.launch.board import Board
from dipod_jax.launch.pool import Ended, Pool
from dipod_jax.runs.errors import MachineError, StorageError
from dipod_jax.runs.signals import stop_requested
from dipod_jax.studies.sweep.plan import LOGS, read_plan
from dipod_jax.studies.sweep.states import is_done, owner_of, record_failure

POLL_S = 0.5
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
        pool = Pool(words, size, job.out / LOGS, pinned=not job.on_accelerator)
        with stop_requested() as stop, Board(job) as board:
            try:
                while True:
                    board.look()
                    for ended in pool.reap():
                        note_death(job, ended)
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
    """One a core and no more than units to train; one for an accelerator."""
    from dipod_jax.training.setup import available_cores

    left = sum(not is_done(unit) for unit in job.units)
    return 1 if job.on_accelerator else max(1, min(available_cores(), left))


def fill(pool: Pool, board: Board) -> None:
    """Start workers while there are units that wait for one."""
    own = sum(owner_of(unit) in pool.pids for unit in board.running)
    while board.num_waiting > 0 and len(pool) < min(pool.size, own + board.num_waiting):
        pool.start()


def note_death(job: Job, ended: Ended) -> None:
    """Count it against the unit that a worker had when it died.

    Raises:
        StorageError, MachineError: it ended for a reason that no other worker would escape.
    """
    if ended.status in ORDERLY:
        return
    if ended.status == StorageError.EXIT_STATUS:
        raise StorageError(ended.last_line().removeprefix("error: "))
    had = [unit for unit in job.units if owner_of(unit) == ended.pid]
    how = f"killed by {signal.Signals(-ended.status).name}" if ended.status < 0 else f"ended with {ended.status}"
    if ended.status == 2 or not had:
        raise MachineError(f"a worker {how}: {ended.last_line().removeprefix('error: ')} ({ended.log})")
    for unit in had:
        record_failure(unit, job.session, f"its worker, process {ended.pid}, was {how}")
