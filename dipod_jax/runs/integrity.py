"""SHA256SUMS: what a checkpoint consists of, and that each file still holds what was written.

The file has a line per file, as `sha256sum` writes and checks them, and ends with a comment that counts them. It needs
no checksum of its own: a changed digit contradicts a file, a changed name leaves one missing, a lost line contradicts
the count, and any other change is not of the only form accepted here.
"""

import re
from pathlib import Path

from dipod_jax.runs._disk import fsync_path, read_bytes, sha256_of
from dipod_jax.runs.errors import CheckpointError, RunFolderError, reason_of

SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 16 * 2**20
WAY_OUT = "delete that folder to continue from an older checkpoint, or start a new run with --out"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_COUNT_LINE = re.compile(r"# (\d+) files\n\Z")


def write_sums(path: Path) -> None:
    """Write SHA256SUMS of the folder `path`; every file reaches the disk before it, and it before this returns."""
    names = sorted(_files(path))
    for name in names:
        fsync_path(path / name)
    lines = [f"{sha256_of(path / name)}  {name}\n" for name in names]
    (path / SUMS).write_text("".join(lines) + f"# {len(names)} files\n", encoding="utf-8")
    fsync_path(path / SUMS)
    for directory in [path, *(entry for entry in path.rglob("*") if entry.is_dir())]:
        fsync_path(directory)


def verify_checkpoint(path: Path) -> None:
    """Raise CheckpointError unless every file of the checkpoint has the content it was written with.

    Other files do not count: systems and people leave theirs anywhere.
    """
    for name, expected in check_complete(path).items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name} cannot be read ({reason_of(error)}); {WAY_OUT}") from error
        if found != expected:
            raise CheckpointError(f"{path / name} is damaged (its checksum is not the one saved); {WAY_OUT}")


def check_complete(path: Path) -> dict[str, str]:
    """The checksums of the checkpoint at `path`, by file; raises CheckpointError where a file is missing."""
    sums, counted = _read_sums(path)
    present = _files(path)
    for name in sorted(sums.keys() - present):
        raise CheckpointError(f"{path / name} is missing; {WAY_OUT}")
    if not counted:  # of version 0.1: a line that is lost shows as a file that is not listed
        for name in sorted(n for n in present - sums.keys() if not Path(n).name.startswith(".")):
            raise CheckpointError(f"{path / name} is not listed in {SUMS}; delete that file, or {WAY_OUT}")
    return sums


def _files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {SUMS}


def _read_sums(path: Path) -> tuple[dict[str, str], bool]:
    """Content of SHA256SUMS as {name: checksum}, and whether it ends with the number of its lines."""
    file = path / SUMS
    damaged = CheckpointError(f"{file} is damaged; {WAY_OUT}")
    try:
        text = read_bytes(file, MAX_SUMS_BYTES).decode("ascii")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a complete checkpoint: it has no {SUMS}; {WAY_OUT}") from None
    except RunFolderError as error:
        raise CheckpointError(str(error)) from error
    except (UnicodeDecodeError, OSError):
        raise damaged from None
    count = _COUNT_LINE.search(text)
    listed = text if count is None else text[: count.start()]
    matches = list(_SUM_LINE.finditer(listed))
    if not listed or "".join(match[0] for match in matches) != listed:
        raise damaged
    if count is not None and int(count[1]) != len(matches):
        raise damaged
    if any(Path(match[2]).is_absolute() or ".." in Path(match[2]).parts for match in matches):
        raise damaged
    return {match[2]: match[1] for match in matches}, count is not None
