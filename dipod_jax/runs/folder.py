"""A run's folder: `config.json`, `metrics.jsonl`, `result.json`, readable after a kill at any instant."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from dipod_jax.runs._disk import plain, write_json, write_text
from dipod_jax.runs.errors import RunFolderError, StorageError, reason_of
from dipod_jax.runs.metrics import MetricsWriter
from dipod_jax.runs.provenance import provenance

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """One run on the disk.

    `create` starts one, `open` continues or reads one. Every file but `metrics.jsonl` is replaced atomically;
    `metrics.jsonl` grows by whole lines, and a last line that a kill cut short is dropped by the next reader or writer.

    Does not lock: two processes that write into one folder at a time spoil each other's metrics.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        """Use `create` or `open`. `record` is the content of `config.json`."""
        self.path = path
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
            path: the folder; its parents are made. It may exist if it is empty.
            config: everything resolved; values that JSON can hold, dataclasses, paths, numpy scalars.

        Raises:
            RunFolderError: the folder holds something already, or cannot be made.
        """
        path = Path(path)
        check_unused(path)
        record = plain({"config": config, "created": datetime.now(UTC).isoformat(timespec="seconds"), **provenance()})
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / CONFIG, record)
        except OSError as error:
            what = f"--out: cannot write into {path} ({reason_of(error)})"
            raise RunFolderError(f"{what}; name another folder") from error
        return cls(path, record)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run that was created before, to resume or to read it.

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
            record = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}; name one that a run wrote") from None
        except (ValueError, OSError) as error:
            raise RunFolderError(f"{path / CONFIG} cannot be read ({error}); start a new run with --out") from error
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise RunFolderError(f'{path / CONFIG} is not a run\'s: it has no "config"; name one that a run wrote')
        return cls(path, record)

    def update_config(self, config: dict[str, Any]) -> None:
        """Replace the configuration in `config.json`, as a resumed run may change some of it; provenance stays."""
        self.config = plain(config)
        write_json(self.path / CONFIG, {"config": self.config, **self.provenance})

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie (see `dipod_jax.runs.checkpoints`)."""
        return self.path / CHECKPOINTS

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`, as `MetricsWriter.append` does."""
        self._metrics.append(record)

    def metrics_are_written(self) -> bool:
        """Whether every record is in `metrics.jsonl`; tries again to write those that the disk has refused."""
        return self._metrics.flush()

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every record in the order of writing; a torn last line is left out. Empty where nothing was written.

        Raises:
            RunFolderError: a line that is not the last one is no JSON object, which no kill explains.
        """
        path = self.path / METRICS
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        records = []
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                records.append(record)
            elif number < len(lines) - 1:
                raise RunFolderError(f"{path} line {number} is damaged; delete that line and try again")
        return records

    def truncate_metrics(self, after_iteration: int) -> None:
        """Drop the records whose `iteration` is greater than `after_iteration`: a resumed run writes them again.

        Records without an `iteration` stay.
        """
        self.close()
        kept = [record for record in self.read_metrics() if record.get("iteration", after_iteration) <= after_iteration]
        write_text(self.path / METRICS, "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept))

    def set_metrics_aside(self) -> Path | None:
        """Rename `metrics.jsonl`, if there is one, to `metrics-<n>.jsonl`, n the first that is free; return where."""
        self.close()
        path = self.path / METRICS
        if not path.exists():
            return None
        free = next(name for n in count(1) if not (name := self.path / f"metrics-{n}.jsonl").exists())
        return path.rename(free)

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

    def read_result(self) -> dict[str, Any] | None:
        """Content of `result.json`, or None where the run has not written one yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / RESULT
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"{path} is damaged ({error}); resume the run to write it again") from error

    def set_result_aside(self) -> None:
        """Rename `result.json`, if there is one, to `result-<env steps>.json`: a run that goes on is not finished."""
        result = self.read_result()
        if result is not None:
            (self.path / RESULT).rename(self.path / f"result-{result.get('env_steps', 0)}.json")

    def close(self) -> None:
        """Close `metrics.jsonl`; the next `append_metrics` opens it again."""
        self._metrics.close_file()


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def check_unused(path: Path) -> None:
    """Raise RunFolderError if `path` cannot become a new run's folder because something is there. Touches nothing."""
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"--out: {path} is a file; name a folder that is new or empty")
    if (path / CONFIG).exists():
        raise RunFolderError(f"--out: {path} already holds a run; continue it with --resume, or name another --out")
    if any(path.iterdir()):
        raise RunFolderError(f"--out: {path} is not empty and holds no run; name another --out")


def check_writable(path: Path) -> None:
    """Raise ValueError with one clear line unless `path` can be made and written into. Leaves nothing behind.

    Tries a nameless file in the nearest folder that exists: permission bits alone say nothing about root, full disks
    and read-only mounts.
    """
    refusal = f"--out: value {str(path)[:200]!r}; allowed: a folder that can be written into"
    if "\0" in str(path):
        raise ValueError(f"{refusal} (a path holds no null character)")
    try:
        ancestor = _nearest_existing(Path(path).absolute())
        if not ancestor.is_dir():
            raise ValueError(f"{refusal} ({ancestor} is not a folder)")
        longest = os.statvfs(ancestor).f_namemax
        if any(len(os.fsencode(part)) > longest for part in Path(path).parts):
            raise ValueError(f"{refusal} (a name in it is longer than {longest} bytes)")
        with tempfile.TemporaryFile(dir=ancestor) as file:
            file.write(b"\0")
    except OSError as error:
        raise ValueError(f"{refusal} ({reason_of(error)})") from error


def _nearest_existing(path: Path) -> Path:
    """`path` or the nearest of its parents that is there, be it a folder or not."""
    while True:
        try:
            path.lstat()
            return path
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
