"""Writes that are either there or not there, whatever kills the process in between."""

import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from dipod_jax.runs.errors import RunFolderError, reason_of


def fsync_path(path: Path) -> None:
    """Force a file's content, or a directory's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` if the block ends without an exception.

    A reader sees the old file or the new one, never half of one. The temporary file keeps the suffix of `path`
    (encoders choose their format by it) and is removed when the block fails.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        fsync_path(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private; a run's files are as open as any other
        os.replace(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def drain(descriptor: int, pending: bytearray) -> None:
    """Write `pending` to `descriptor`, and remove from it what was written.

    Raises:
        OSError: the disk took no more; `pending` holds the rest, so that the next attempt goes on there.
    """
    while pending:
        del pending[: os.write(descriptor, bytes(pending))]


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` as what JSON can hold: numpy and jax scalars and arrays, dataclasses, tuples and paths are converted.

    nan and infinities become null, as JSON has neither and strict readers reject the whole file.
    Raises TypeError for anything else, naming its type.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return plain(to_list())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


def read_bytes(path: Path, limit: int) -> bytes:
    """Content of the file at `path`, which has at most `limit` bytes.

    Raises:
        FileNotFoundError: there is none.
        RunFolderError: it is larger, no file (a pipe would never end), or cannot be read.
    """
    if (size := _size(path)) > limit:
        raise RunFolderError(f"{path} has {size} bytes; allowed: at most {limit}")
    return _read(path, 0, limit)


def read_end(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of the file at `path`, of whatever size; raises as `read_bytes`."""
    return _read(path, max(0, _size(path) - limit), limit)


def _read(path: Path, start: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({reason_of(error)})") from error


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({reason_of(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise RunFolderError(f"{path} is no file; a run writes one there")
    return status.st_size


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
