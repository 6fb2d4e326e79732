"""A run's folder: `config.json`, `metrics.jsonl`, `result.json`, readable after a kill at any instant."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from dipod_jax.runs._disk import plain, write_json
from dipod_jax.runs.errors import RunFolderError, StorageError, reason_of
from dipod_jax.runs.lock import FolderLock
from dipod_jax.runs.metrics import MetricsWriter, read_metrics, truncate_metrics
from dipod_jax.runs.places import CHECKPOINTS, CONFIG, METRICS, check_unused, remove_beginnings, remove_leftovers
from dipod_jax.runs.provenance import provenance
from dipod_jax.runs.schema import check_origin, check_result, read_json
from dipod_jax.runs.shelf import checkpoint_step, set_newer_aside

RESULT = "result.json"
MAX_CONFIG_BYTES, MAX_RESULT_BYTES = 2**20, 2**24
WRITE_AGAIN = "resume the run to write it again"


class RunFolder:
    """One run on the disk.

    `create` starts one, `resume` continues and `open` reads one. Every file but `metrics.jsonl` is replaced atomically;
    `metrics.jsonl` grows by whole lines, and a last line that a kill cut short is dropped by the next reader or writer.

    One process writes: `create` and `resume` take the folder's lock (see `dipod_jax.runs.lock`), `open` does not.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: FolderLock | None = None) -> None:
        """Use `create`, `resume` or `open`. `record` is the content of `config.json`."""
        self.path, self._lock = path, lock
        self.config: dict[str, Any] = record["config"]
        """The resolved configuration, as JSON holds it (tuples are lists, paths strings)."""
        self.provenance: dict[str, Any] = {key: value for key, value in record.items() if key != "config"}
        """`created`, `versions`, `git`, `machine`, `command`."""
        self.say: Callable[[str], None] = _say_on_stderr
        """Where a line goes that says what is wrong with the disk; standard error until a run shows its progress."""
        self._metrics = MetricsWriter(path / METRICS, lambda line: self.say(line))

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """Make the folder and write `config.json`.

        Args:
            path: the folder; its parents are made. It may exist if it is empty, or if a run began there and ended
                before it had trained.
            config: everything resolved; values that JSON can hold, dataclasses, paths, numpy scalars.

        Raises:
            RunFolderError: the folder holds something already, is in use, or cannot be made.
        """
        path = Path(path)
        check_unused(path)
        record = plain({"config": config, "created": datetime.now(UTC).isoformat(timespec="seconds"), **provenance()})
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(path)
            try:
                check_unused(path, locked=True)  # nobody can have been quicker any more
                remove_beginnings(path)
                write_json(path / CONFIG, record)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            what = f"--out: cannot write into {path} ({reason_of(error)})"
            raise RunFolderError(f"{what}; name another folder") from error
        return cls(path, record, lock)

    @classmethod
    def resume(cls, path: Path) -> "RunFolder":
        """Open a run that was created before, to continue it.

        Raises:
            RunFolderError: as `open`, or another process writes into it.
            StorageError: nothing can be written there.
        """
        folder = cls.open(path)
        try:
            folder._lock = FolderLock(folder.path)
            remove_leftovers(folder.path)
        except OSError as error:
            what = f"{folder.path} cannot be written into ({reason_of(error)})"
            raise StorageError(f"{what}; copy the folder and resume the copy") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run that was created before, to read it.

        Raises:
            RunFolderError: there is no such folder, or it is not a run's.
        """
        path = Path(path)
        try:
            found = path.is_dir()
        except OSError as error:  # a name too long for any folder
            raise RunFolderError(f"{str(path)[:200]} cannot be opened ({reason_of(error)})") from error
        if not found:
            raise RunFolderError(f"{path} is not a folder; name one that a run has written (it holds {CONFIG})")
        try:
            record = read_json(path / CONFIG, MAX_CONFIG_BYTES)
            check_origin(record)
        except FileNotFoundError:
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}; name one that a run wrote") from None
        except RunFolderError as error:
            raise RunFolderError(f"{error}; start a new run with --out") from error
        except ValueError as error:
            raise RunFolderError(f"{path / CONFIG} is not a run's: {error}; name one that a run wrote") from error
        return cls(path, record)

    @property
    def taken_over_from(self) -> str | None:
        """The process that wrote here before and did not end by itself; None where all did."""
        return None if self._lock is None else self._lock.taken_over_from

    def check(self) -> None:
        """Raise StorageError where the folder this process writes into is gone or another's; a lost lock is renewed."""
        if not (self.path / CONFIG).exists():
            raise StorageError(f"{self.path} was removed or renamed while the run wrote into it; what it held is lost")
        if self._lock is not None and not self._lock.is_held():
            try:
                self._lock = FolderLock(self.path)
            except RunFolderError as error:
                raise StorageError(f"the lock of this run was removed, and {error}") from error

    def update_config(self, config: dict[str, Any]) -> None:
        """Replace the configuration in `config.json`, as a resumed run may change some of it; provenance stays."""
        self.config = plain(config)
        write_json(self.path / CONFIG, {"config": self.config, **self.provenance})

    @property
    def room(self) -> str:
        """Which kind of run it holds: control, or language."""
        return self.config.get("room", "control")

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie (see `dipod_jax.runs.checkpoints`)."""
        return self.path / CHECKPOINTS

    def film(self, seed: int) -> Path:
        """Where a seed's film is, if it has one."""
        return self.path / f"policy-seed{seed}.mp4"

    def films(self) -> dict[int, Path]:
        """The filmed seeds of a finished run -> their films. An earlier version filmed the first one, in policy.mp4."""
        seeds = (self.read_result() or {}).get("seeds") or []
        found = {seed: path for seed in seeds if (path := self.film(seed)).is_file()}
        before = self.path / "policy.mp4"
        return found or ({seeds[0]: before} if seeds and before.is_file() else {})

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`, as `MetricsWriter.append` does."""
        self._metrics.append(record)

    def metrics_are_written(self) -> bool:
        """Whether every record is in `metrics.jsonl`; tries again to write those that the disk has refused."""
        return self._metrics.flush()

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every record in the order of writing, as `dipod_jax.runs.metrics.read_metrics`."""
        return read_metrics(self.path / METRICS)

    def truncate_metrics(self, after_iteration: int) -> None:
        """Drop the records whose `iteration` is greater than `after_iteration`: a resumed run writes them again."""
        self._metrics.close_file()
        truncate_metrics(self.path / METRICS, after_iteration)

    def set_metrics_aside(self) -> Path | None:
        """Rename `metrics.jsonl`, if there is one, to `metrics-<n>.jsonl`, n the first that is free; return where."""
        self._metrics.close_file()
        path = self.path / METRICS
        if not path.exists():
            return None
        return path.rename(self._free_name("metrics-{}.jsonl"))

    def write_json(self, name: str, value: Any) -> None:
        """Write another file of the run, `name` in its folder, atomically."""
        write_json(self.path / name, value)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json` atomically.

        Raises:
            StorageError: the disk refuses it.
        """
        try:
            write_json(self.path / RESULT, result)
        except OSError as error:
            raise StorageError(
                f"{self.path / RESULT} cannot be written ({reason_of(error)}); finish the run with --resume"
            ) from error

    def has_reached(self, env_steps: int) -> bool:
        """Whether the run has written a result that is whole, with at least so many env steps or samples."""
        result = self.standing_result()
        return result is not None and _reached(result) >= env_steps

    def read_result(self) -> dict[str, Any] | None:
        """Content of `result.json`, or None where the run has not written one yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / RESULT
        try:
            result = read_json(path, MAX_RESULT_BYTES)
            check_result(result)
        except FileNotFoundError:
            return None
        except RunFolderError as error:
            raise RunFolderError(f"{error}; {WRITE_AGAIN}") from error
        except ValueError as error:
            raise RunFolderError(f"{path} is damaged ({error}); {WRITE_AGAIN}") from error
        return result

    def set_result_aside(self) -> None:
        """Rename `result.json`, if there is one, to `result-<env steps or samples>.json`: a run that goes on is not
        finished. One that is damaged becomes `result-damaged-<n>.json`, n the first that is free, and that is said."""
        try:
            result = self.read_result()
        except RunFolderError as error:
            aside = self._free_name("result-damaged-{}.json")
            (self.path / RESULT).rename(aside)
            damage = str(error).partition(f"; {WRITE_AGAIN}")[0]
            self.say(f"warning: {damage}; it is set aside as {aside.name}, and the run goes on")
            return
        if result is not None:
            (self.path / RESULT).rename(self.path / f"result-{_reached(result)}.json")

    def _free_name(self, pattern: str) -> Path:
        """`pattern` with the first number that no file has."""
        return next(path for n in count(1) if not os.path.lexists(path := self.path / pattern.format(n)))

    def standing_result(self, *needed: str) -> dict[str, Any] | None:
        """What `result.json` holds; None where there is none, or none that can be read and has the fields `needed`."""
        try:
            result = self.read_result()
        except RunFolderError:
            return None
        return result if set(needed) <= set(result or ()) else None

    def begin_again(self, config: dict[str, Any], say: Callable[[str], None]) -> None:
        """Make room for a run that has no checkpoint to go on from, and say so where it had records."""
        self.update_config(config)
        self.set_result_aside()
        if (kept := self.set_metrics_aside()) is not None:
            say(f"no checkpoint to continue from: training starts again; earlier metrics are in {kept}")

    def go_on_from(self, checkpoint: Path, iteration: int, config: dict[str, Any], *, is_finished: bool) -> None:
        """Bring everything to where `checkpoint` stands: what is newer is set aside or, of the records, dropped.

        Args:
            checkpoint: one of `checkpoints`.
            iteration: iterations done there.
            config: may reach further than the one in the folder.
            is_finished: whether nothing is left to train; otherwise the result is set aside.
        """
        self.update_config(config)  # one that reaches further must outlive the next kill
        if not is_finished:
            self.set_result_aside()
        set_newer_aside(self.checkpoints, checkpoint_step(checkpoint))
        self.truncate_metrics(after_iteration=iteration)

    def close(self) -> None:
        """Close `metrics.jsonl` and release the lock: this process has written into the folder."""
        self._metrics.close_file()
        if self._lock is not None:
            self._lock.release()


def _reached(result: dict[str, Any]) -> int:
    return result.get("env_steps", result.get("samples", 0))


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr)
