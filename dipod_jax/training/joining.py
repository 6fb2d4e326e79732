"""Making one run of several processes, where a user asks for it, and ending all of them when one ends."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from dipod_jax.cli import ending, resume_command
from dipod_jax.config import Config
from dipod_jax.runs.errors import MachineError, reason_of
from dipod_jax.runs.watch import Watch, accept_all, connect, listen
from dipod_jax.serialisation import to_json
from dipod_jax.training.hosts import from_first, is_first, largest, text_from_first
from dipod_jax.training.setup import check_devices

JOIN_S = 300  # that a process waits for the others to start
DRAW_S = 3600  # that the others wait for the first to draw its pictures
FIND_OUT_S = 5.0


def run_joined(config: Config, main: Callable[[Config, Watch], Any]) -> None:
    """Join the processes of a run, call `main` in each, and end them together.

    Args:
        config: with `distributed`; of every process the same options. Its `out` becomes that of the first.
        main: the run; given the watch over the other processes.

    Raises:
        MachineError: the processes cannot be joined. Whatever goes wrong later ends the process here, with the line and
            the exit status that the command line would give it, as soon as the others know.
    """
    join(config)
    watch = None
    try:
        config = _agreed(config)
        assert config.out is not None
        watch = _open_watch(f"continue with {resume_command('train', config.out)}")
        main(config, watch)
        jax.distributed.shutdown()  # waits for the first, which draws its pictures
    except BaseException as error:
        _end(error, watch)
    watch.end(0)


def join(config: Config) -> None:
    """`jax.distributed.initialize`, by the options, or by what Slurm, Open MPI, Kubernetes or a TPU pod says."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    if config.backend == "native" or jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # collectives come in one order everywhere
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=JOIN_S,
            shutdown_timeout_seconds=DRAW_S,
            cluster_detection_method=None if config.coordinator is None else "deactivate",
        )
        check_devices()
    except MachineError:
        raise
    except Exception as error:
        asked = "give --coordinator HOST:PORT, --num-processes and --process-id, or start it by srun or mpirun"
        how = "cannot be joined" if config.coordinator else f"cannot be found; {asked}"
        raise MachineError(f"--distributed: the processes of the run {how} ({reason_of(error)})") from error


def _agreed(config: Config) -> Config:
    """The config with the first process's folder.

    Raises:
        MachineError: a process was started with other options than the first.
    """
    out = text_from_first(str(config.out))
    assert out is not None
    options = {**to_json(config), "out": out}
    digest = np.frombuffer(hashlib.sha256(json.dumps(options, sort_keys=True).encode()).digest()[:8], np.uint32)
    differs = not np.array_equal(from_first(digest), digest)
    if (other := largest(jax.process_index() if differs else 0)) > 0:
        raise MachineError(f"--distributed: process {other} was started with other options than process 0")
    return dataclasses.replace(config, out=Path(out))


def _open_watch(way_out: str) -> Watch:
    count, index = jax.process_count(), jax.process_index()
    try:
        if is_first():
            server, port = listen()
            from_first(np.int32(port))
            return Watch(accept_all(server, count - 1), way_out)
        return Watch(connect(_first_host(), int(from_first(np.int32(0))), index), way_out)
    except OSError as error:
        raise MachineError(f"process {index} and process 0 cannot watch each other ({reason_of(error)})") from error


def _first_host() -> str:
    """The host by which every process reaches the first."""
    from jax._src.distributed import global_state

    return str(global_state.coordinator_address).rpartition(":")[0].strip("[]")


def _end(error: BaseException, watch: Watch | None) -> NoReturn:
    """Say what is wrong and end this process; without jax's own ending, which would wait for the others."""
    ended = ending(error)
    if ended is None and watch is not None:
        watch.wait_until_lost(FIND_OUT_S)  # a collective fails where another process has died
    line, status = ended or ("".join(traceback.format_exception(error)).rstrip(), 1)
    if watch is not None:
        watch.end(status)
    print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    os._exit(status)
