"""A Ray cluster that is there: each unit is a task; where its node is lost, another goes on in the shared folder."""

from __future__ import annotations

import functools
import importlib.util
import os
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.launch.base import RELEASE_S, Job, Launcher, register_launcher
from dipod_jax.launch.board import Board
from dipod_jax.runs import StorageError, reason_of
from dipod_jax.runs.errors import MachineError
from dipod_jax.runs.signals import StopRequest, stop_requested
from dipod_jax.studies.sweep.plan import Unit, read_plan
from dipod_jax.studies.sweep.states import is_done, record_failure, state_of, take
from dipod_jax.studies.sweep.trainer import Trainer, attempt

POLL_S = 0.5
CONNECT_S = 10.0
NODE_LOSSES = 5  # that a unit survives in one command
ONE_DEVICE = "--xla_force_host_platform_device_count=1"


@register_launcher("ray")
class Ray(Launcher):
    """Tasks of one CPU, and of one GPU where the physics wants an accelerator."""

    options = ("ray_address",)

    def validate(self, job: Job) -> None:
        """Refuse where Ray is not installed."""
        super().validate(job)
        installed = importlib.util.find_spec("ray") is not None
        require(installed, "launcher", "ray", "ray is not installed (pip install 'dipod-jax[ray]')")

    def submit(self, job: Job) -> None:
        """Train on the cluster, whose nodes all see the sweep's folder under the same path."""
        import ray  # pyright: ignore[reportMissingImports]  # an extra: dipod-jax[ray]

        try:
            _check_port(job.ray_address or "auto")
            ray.init(address=job.ray_address or "auto", log_to_driver=False, logging_level="error")
        except Exception as error:  # of many kinds
            where = job.ray_address or "auto"
            raise MachineError(f"--ray-address {where}: no Ray cluster answers ({reason_of(error)})") from error
        # What is tried again, and how often, is up to `run`: Ray would count a crash as it counts a lost node.
        task = ray.remote(train_unit).options(num_cpus=1, num_gpus=1 if job.on_accelerator else 0, max_retries=0)
        try:
            with stop_requested() as stop, Board(job) as board:
                run(job, task, stop, board)
        finally:
            ray.shutdown()


def _check_port(address: str) -> None:
    """Raise OSError where nobody listens at [ray://]host:port, for which Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_S).close()


def run(job: Job, task: Any, stop: StopRequest, board: Board) -> None:
    """Submit what waits, and again what has failed once or was lost with its node, until nothing waits or is trained,
    also by others."""
    import ray  # pyright: ignore[reportMissingImports]

    submitted: dict[Any, Unit] = {}
    losses: Counter[str] = Counter()
    while True:
        board.look()
        ready, _ = ray.wait(list(submitted), timeout=0) if submitted else ([], [])
        for reference in ready:
            note_end(job, submitted.pop(reference), reference, losses)
        if stop.is_set():
            board.line("stopping: every run saves what it has ...")
            for reference in submitted:
                ray.cancel(reference)
            if submitted:
                ray.wait(list(submitted), num_returns=len(submitted), timeout=RELEASE_S)
            raise stop.stopped()
        have = {unit.id for unit in submitted.values()}
        for unit in job.units:
            if unit.id not in have and state_of(unit, job.session) == "waiting":
                submitted[task.remote(str(job.out.absolute()), unit.id, job.session)] = unit
        if not submitted and not board.num_left:
            return
        time.sleep(POLL_S)


def note_end(job: Job, unit: Unit, reference: Any, losses: Counter[str]) -> None:
    """What a task has come to: it says nothing itself, its unit's folder does, unless its process or node died.

    A lost node is no failure of the unit's until it has lost `NODE_LOSSES`, which are counted in `losses`.

    Raises:
        StorageError, MachineError: as `attempt`.
    """
    import ray  # pyright: ignore[reportMissingImports]

    try:
        ray.get(reference)
    except (StorageError, MachineError):
        raise
    except ray.exceptions.NodeDiedError as error:
        losses[unit.id] += 1
        if losses[unit.id] > NODE_LOSSES:
            record_failure(unit, job.session, f"its node was lost: {reason_of(error)}")
    except Exception as error:
        record_failure(unit, job.session, f"its Ray task ended with {type(error).__name__}: {reason_of(error)}")


def train_unit(out: str, identity: str, session: str) -> None:
    """One try at a unit, in a process of the cluster.

    Where it goes on for a node that was lost it waits for the lock to be given up; what another command trains it
    leaves to that.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:  # a task has one core of however many there are
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_DEVICE}".strip()
    unit = next(unit for unit in read_plan(Path(out)) if unit.id == identity)
    deadline = time.monotonic() + RELEASE_S
    while (lock := take(unit)) is None:
        if is_done(unit) or time.monotonic() > deadline:
            return
        time.sleep(POLL_S)
    try:
        if not is_done(unit):
            attempt(unit, session, _trainer())
    finally:
        lock.release()


@functools.cache
def _trainer() -> Trainer:
    """Of this process, which Ray gives several tasks: what is compiled serves the next one."""
    return Trainer()
