"""Where scalars go beside the run's own files: TensorBoard events, Weights & Biases, or nowhere.

A logger is a convenience: whatever happens to it, training goes on, and its failure is said once.
"""

import contextlib
import importlib.util
import json
import os
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from dipod_jax.runs._disk import drain, plain, write_json
from dipod_jax.runs.errors import reason_of

LoggerKind = Literal["tensorboard", "wandb", "none"]
MAX_WAITING = 10_000  # calls of `log` that a slow logger may be behind
CLOSE_S = 30.0


class Logger(Protocol):
    """Receives scalars; `close` when the run ends, however it ends."""

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Record `scalars` (tag -> value) at `step` (env steps, an integer that does not fall); of several seeds, of
        which."""
        ...

    def close(self) -> None:
        """Write out what is buffered. Nothing may be logged afterwards."""
        ...


def check_logger(kind: str) -> None:
    """Raise ValueError with one clear line unless a logger of `kind` can be made here. Imports nothing."""
    if kind not in get_args(LoggerKind):
        raise ValueError(f"--logger: value {kind!r}; allowed: {', '.join(get_args(LoggerKind))}")
    if kind == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "--logger: value 'wandb'; wandb is not installed (pip install 'dipod-jax[wandb]'); "
            "allowed without it: tensorboard, none"
        )


def make_logger(
    kind: LoggerKind,
    folder: Path,
    config: dict[str, Any],
    name: str,
    *,
    seeds: Sequence[int] = (),
    resumed_at: int | None = None,
    say: Callable[[str], None] = print,
) -> Logger:
    """Make the logger of `kind`.

    Args:
        kind: `tensorboard` writes event files under `folder/tensorboard`; `wandb` starts a run of the project
            `dipod-jax` with its files under `folder`; `none` drops everything.
        folder: the run's folder.
        config: shown beside the curves.
        name: the run's name in the logger.
        seeds: of several each is a run of its own in the logger: `folder/tensorboard/seed<seed>`, or a run of Weights &
            Biases in a group named by WANDB_RUN_GROUP, by `name` where that is not set.
        resumed_at: env steps from which a resumed run goes on; what was logged of later steps is taken back, and a run
            of Weights & Biases keeps its id. None for a new run.
        say: told once, in one line, that the logger failed.

    Raises:
        ValueError: unknown kind, or wandb asked for and not installed.
    """
    check_logger(kind)
    folder = Path(folder)
    if kind == "none":
        return NullLogger()

    def open_one(seed: int | None) -> Logger:
        if kind == "wandb":
            return WandbLogger(folder, config, name, seed)
        events = folder / "tensorboard" / ("" if seed is None else f"seed{seed}")
        return TensorBoardLogger(events, config, name, resumed_at)

    def open_all() -> Logger:
        return open_one(None) if len(seeds) < 2 else SeedLoggers({seed: open_one(seed) for seed in seeds})

    return GuardedLogger(open_all, kind, say)


class NullLogger:
    """Drops everything."""

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Drop `scalars`."""

    def close(self) -> None:
        """Nothing to do."""


class SeedLoggers:
    """A logger for each of several seeds."""

    def __init__(self, loggers: Mapping[int | None, Logger]) -> None:
        """`loggers` by seed."""
        self._loggers = loggers

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Hand `scalars` to the logger of `seed`."""
        self._loggers[seed].log(step, scalars)

    def close(self) -> None:
        """Close every one."""
        for logger in self._loggers.values():
            logger.close()


class GuardedLogger:
    """Another logger, called on a thread of its own: where that fails or hangs, it is given up and training goes on."""

    def __init__(self, open_logger: Callable[[], Logger], name: str, say: Callable[[str], None]) -> None:
        """Open the logger here, so that what is wrong with it is said before training begins."""
        self._name, self._say = name, say
        self._waiting: queue.Queue[tuple[int, dict[str, float], int | None] | None] = queue.Queue(MAX_WAITING)
        self._failure: Exception | None = None
        self._given_up = False
        try:
            self._logger = open_logger()
        except Exception as error:
            self._give_up(reason_of(error))
            return
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Hand `scalars` over; never waits."""
        if self._is_usable():
            try:
                self._waiting.put_nowait((step, scalars, seed))
            except queue.Full:
                self._give_up(f"it is {MAX_WAITING} records behind")

    def close(self) -> None:
        """Wait at most 30 seconds for what is behind."""
        if self._is_usable():
            deadline = time.monotonic() + CLOSE_S
            try:
                self._waiting.put(None, timeout=CLOSE_S)
            except queue.Full:
                self._give_up(f"it did not end within {CLOSE_S:.0f} s")
                return
            self._thread.join(deadline - time.monotonic())
            if self._thread.is_alive():
                self._give_up(f"it did not end within {CLOSE_S:.0f} s")
            self._is_usable()
            self._given_up = True

    def _is_usable(self) -> bool:
        if self._failure is not None:
            self._give_up(reason_of(self._failure))
        return not self._given_up

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._given_up = True
            self._say(f"warning: nothing more is logged to {self._name} ({reason}); training goes on without it")

    def _work(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                self._logger.log(*item)
            self._logger.close()
        except Exception as error:
            self._failure = error


class TensorBoardLogger:
    """Event files that `tensorboard --logdir` reads; written without TensorFlow, each call at once."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str, resumed_at: int | None = None) -> None:
        """Open an event file in `folder`, which is made.

        Where a run was resumed, the file begins with the mark by which TensorBoard drops what earlier files hold of
        later steps.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import text

        folder.mkdir(parents=True, exist_ok=True)
        # Sorted by time; two files of one second differ by the last part.
        file = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._descriptor = os.open(folder / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        # TensorBoard renders markdown: four spaces make a block of code.
        shown = f"{name}\n\n{json.dumps(plain(config), indent=2)}".replace("\n", "\n    ")
        events = [Event(file_version="brain.Event:2", wall_time=time.time())]
        if resumed_at is not None:
            start = SessionLog(status=SessionLog.START)
            events.append(Event(session_log=start, step=resumed_at + 1, wall_time=time.time()))
        events.append(Event(summary=text("config", shown), step=max(resumed_at or 0, 0), wall_time=time.time()))
        self._write(events)

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Write one event per tag."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        now = time.time()
        self._write([Event(summary=scalar(tag, float(v)), step=int(step), wall_time=now) for tag, v in scalars.items()])

    def close(self) -> None:
        """Close the event file."""
        os.close(self._descriptor)

    def _write(self, events: list[Any]) -> None:
        drain(self._descriptor, bytearray(b"".join(_tensorflow_record(e.SerializeToString()) for e in events)))


def _tensorflow_record(content: bytes) -> bytes:
    """Length (u64), its checksum (u32), content, its checksum: the form of an event file."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))


class WandbLogger:
    """A run of Weights & Biases in the project `dipod-jax`."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str, seed: int | None = None) -> None:
        """Start the run, or go on with the one whose id stands in `folder/wandb.json`, of one of several seeds in
        `folder/wandb/seed<seed>.json`.

        wandb reads its own settings (key, mode) from its environment variables. Of a step that it has already, it keeps
        the first record.
        """
        import wandb  # pyright: ignore[reportMissingImports]  # an extra: dipod-jax[wandb]

        of_seed: dict[str, Any] = {}
        if seed is not None:
            group = os.environ.get("WANDB_RUN_GROUP") or name
            of_seed = {"name": f"{name}-seed{seed}", "group": group, "reinit": "create_new"}  # beside the others
        kept = folder / ("wandb.json" if seed is None else f"wandb/seed{seed}.json")
        kept.parent.mkdir(exist_ok=True)
        arguments = {"name": name, "config": plain(config), "dir": str(folder), "id": _wandb_id(kept)} | of_seed
        self._run = wandb.init(project="dipod-jax", resume="allow", **arguments)

    def log(self, step: int, scalars: dict[str, float], seed: int | None = None) -> None:
        """Send all tags at once."""
        self._run.log({tag: float(value) for tag, value in scalars.items()}, step=int(step))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _wandb_id(path: Path) -> str:
    """The id in the file at `path`; a new one, kept there, where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))["id"]
        if isinstance(kept, str) and kept.isalnum():
            return kept
    write_json(path, {"id": (new := secrets.token_hex(4))})
    return new
