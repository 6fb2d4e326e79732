"""`metrics.jsonl`: whole lines that a kill cannot take back, and that wait in memory while the disk refuses them."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dipod_jax.runs._disk import drain, plain, read_bytes, write_text
from dipod_jax.runs.errors import RunFolderError, StorageError, reason_of
from dipod_jax.runs.schema import checked_record, parse_object

MAX_WAITING_BYTES = 64 * 2**20
MAX_BYTES = 2**30


class MetricsWriter:
    """Appends records to a file, one JSON object a line.

    A record is with the operating system when `append` returns (kill -9 keeps it), unless the disk refuses: then it
    waits, said once, and is written, in order, before the next record that the disk takes.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Open nothing yet; `say` is told, in one line each, what goes wrong and when it is over."""
        self.path, self._say = path, say
        self._descriptor: int | None = None
        self._waiting = bytearray()
        self.problem: OSError | None = None
        """Why records are waiting; None while all are written."""

    def append(self, record: dict[str, Any]) -> None:
        """Add `record`; nan and infinities become null.

        Raises:
            StorageError: 64 MiB of records wait already.
        """
        self._waiting += (json.dumps(plain(record), allow_nan=False) + "\n").encode()
        self.flush()
        if len(self._waiting) > MAX_WAITING_BYTES:
            raise StorageError(f"{self.path} has taken no record for too long: {reason_of(self.problem or OSError())}")

    def flush(self) -> bool:
        """Try to write what waits; return whether everything is written."""
        try:
            if self._descriptor is not None and not _is_at(self._descriptor, self.path):
                self._say(f"warning: {self.path} was removed or replaced; records written before are not in it")
                self.close_file()
            if self._descriptor is None:
                drop_torn_line(self.path)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            drain(self._descriptor, self._waiting)
        except OSError as error:
            if self.problem is None:
                self._say(f"warning: {self.path} takes no records ({reason_of(error)}); they wait in memory")
            self.problem = error
            return False
        if self.problem is not None:
            self._say(f"{self.path} takes records again; none was lost")
        self.problem = None
        return True

    def close_file(self) -> None:
        """Close the file; the next `append` opens it again. What waits goes on waiting."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every record in the order of writing; a torn last line is left out. Empty where nothing was written.

    Raises:
        RunFolderError: as `read_lines`.
    """
    return [record for _, record in read_lines(path)]


def truncate_metrics(path: Path, after_iteration: int) -> None:
    """Drop the records whose `iteration` is greater than `after_iteration`."""
    kept = [line for line, record in read_lines(path) if record["iteration"] <= after_iteration]
    write_text(path, b"".join(line + b"\n" for line in kept).decode())


def read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every line of `metrics.jsonl` with its record; a torn last one is left out.

    Raises:
        RunFolderError: a line that is not the last one is no record, which no kill explains; or more than a gigabyte.
    """
    try:
        lines = read_bytes(path, MAX_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
        try:
            found.append((line, checked_record(parse_object(line))))
        except ValueError as error:
            if number == len(lines) - 1:
                break
            what = f"{path} line {number} is damaged: {error}"
            raise RunFolderError(f"{what}; delete that line and try again") from error
    return found


def find_holes(
    records: list[dict[str, Any]], seeds: Iterable[int], expected: Mapping[str, Iterable[int]]
) -> str | None:
    """The records that are missing, in words; None where there is none.

    Args:
        records: of a run.
        seeds: those that each have a record.
        expected: kind -> the iterations after which there is one, rising.
    """
    present = {(r.get("kind"), r.get("seed"), r.get("iteration")) for r in records}
    holes = []
    for kind, iterations in expected.items():
        for seed in seeds:
            missing = [i for i in iterations if (kind, seed, i) not in present]
            if missing:
                span = f"{missing[0]} to {missing[-1]}" if len(missing) > 1 else f"{missing[0]}"
                holes.append(f"{len(missing)} {kind} records of seed {seed} (iterations {span})")
    return ", ".join([*holes[:4], f"and more ({len(holes) - 4})"] if len(holes) > 4 else holes) or None


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last newline of the file at `path`, if there is a file: a kill cut it short."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 2**16)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
