"""Whether a folder can become a run's: asked before anything is compiled, and again under the folder's lock."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from dipod_jax.runs.errors import RunFolderError, reason_of
from dipod_jax.runs.lock import LOCK, check_free
from dipod_jax.runs.metrics import read_metrics
from dipod_jax.runs.mujoco_log import LOG

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
METRICS = "metrics.jsonl"
_BEGINNINGS = (LOCK, CONFIG, METRICS, "tensorboard", "wandb", "wandb.json", LOG)
_LEFTOVER = re.compile(r"\.\w+-\w{8}\.\w+")  # the temporary names of `replacing`


def check_unused(path: Path, *, locked: bool = False) -> None:
    """Raise RunFolderError if `path` cannot become a new run's folder because something is there. Touches nothing.

    A run that ended before it had trained an iteration leaves nothing that a new one could spoil.

    Args:
        path: the folder, which may not exist.
        locked: the caller has its lock.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"--out: {path} is a file; name a folder that is new or empty")
    if not locked:
        check_free(path)
    strangers = [entry for entry in path.iterdir() if not _is_of_a_beginning(entry)]
    if (path / CONFIG).exists() and (strangers or _has_trained(path)):
        raise RunFolderError(f"--out: {path} already holds a run; continue it with --resume, or name another --out")
    if strangers:
        raise RunFolderError(f"--out: {path} is not empty and holds no run; name another --out")


def _has_trained(path: Path) -> bool:
    """Whether the run in `path` has recorded an iteration."""
    try:
        records = read_metrics(path / METRICS)
    except RunFolderError:
        return True
    return any(record.get("iteration", 1) > 0 for record in records)


def _is_of_a_beginning(entry: Path) -> bool:
    """Whether a run writes this before it trains. Checkpoints and results come later."""
    return entry.name in _BEGINNINGS or _LEFTOVER.fullmatch(entry.name) is not None


def remove_beginnings(path: Path) -> None:
    for entry in path.iterdir():
        if _is_of_a_beginning(entry) and entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove the files that were being replaced when a kill came."""
    for entry in path.iterdir():
        if _LEFTOVER.fullmatch(entry.name):
            entry.unlink()


def check_writable(path: Path, option: str = "--out") -> None:
    """Raise ValueError with one clear line unless `path` can be made and written into. Leaves nothing behind.

    `option` is what named it. Where a folder that holds something refuses, a copy of it is the way out.

    Tries a nameless file in the nearest folder that exists: permission bits alone say nothing about root, full disks
    and read-only mounts.
    """
    allowed = "a folder that can be written into" + (", such as a copy of it" if _holds_something(path) else "")
    refusal = _refusal(path, option, allowed)
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


def check_resumable(path: Path) -> None:
    """Raise ValueError with one clear line unless the run in `path` can be written into, as `check_writable` does."""
    for folder in (path, path / CHECKPOINTS):
        check_writable(folder)
    for name in (CONFIG, METRICS):
        if (path / name).exists() and not os.access(path / name, os.W_OK):
            allowed = f"a folder whose {name} can be written, such as a copy of it"
            raise ValueError(_refusal(path, "--out", allowed))


def _refusal(path: Path, option: str, allowed: str) -> str:
    return f"{option}: value {str(path)[:200]!r}; allowed: {allowed}"


def _holds_something(path: Path) -> bool:
    """Whether `path` is a folder with something in it; one that cannot be looked into is taken for empty."""
    try:
        return path.is_dir() and any(path.iterdir())
    except (OSError, ValueError):
        return False


def _nearest_existing(path: Path) -> Path:
    """`path` or the nearest of its parents that is there, be it a folder or not."""
    while True:
        try:
            path.lstat()
            return path
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
