"""The checkpoints of a run beside each other: which is the newest that is whole, and which may go."""

import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dipod_jax.runs._disk import fsync_path
from dipod_jax.runs.errors import CheckpointError
from dipod_jax.runs.integrity import check_complete, verify_checkpoint

BEST = "best"
_NAME = re.compile(r"step_(\d{12})(\.old)?")


class _Entry(NamedTuple):
    """Sorts by age: of one step, the one that is being replaced is the older."""

    step: int
    is_current: bool
    path: Path


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's folder was saved under."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise CheckpointError(f"{path} is not a checkpoint: its name is not step_ and 12 digits; name another")
    return int(match[1])


def latest_checkpoint(folder: Path, *, strict: bool = False, say: Callable[[str], None] | None = None) -> Path | None:
    """Newest checkpoint in `folder` whose every file is as it was written, None where there is none at all.

    Args:
        folder: where `save_checkpoint` saved.
        strict: refuse to step back from a newer one that is damaged.
        say: told in one line that a newer one is damaged, with both steps; a Python warning where None.

    Raises:
        CheckpointError: there are checkpoints and none is whole, or the newest is not and `strict`.
    """
    while True:
        damage: CheckpointError | None = None
        for entry in reversed(present := _entries(Path(folder))):
            try:
                verify_checkpoint(entry.path)
            except CheckpointError as error:
                if not entry.path.exists():
                    break  # a run that goes on has just removed it: look again
                damage = damage or error
                continue
            if damage is not None:
                _step_back(present[-1].step, entry.step, damage, strict, say)
            return entry.path
        else:
            if damage is not None:
                raise damage
            return None


def find_checkpoint(folder: Path, which: str = "latest", *, say: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole checkpoint of a run, or that of its best policies; None where there is none yet.

    Args:
        folder: `RunFolder.checkpoints`.
        which: "latest", or "best": of each seed the policy, and no more than acting needs, that its evaluations liked
            best (see `training.best`).
        say: as in `latest_checkpoint`.

    Raises:
        ValueError: another `which`.
        CheckpointError: as `latest_checkpoint`.
    """
    if which not in ("latest", BEST):
        raise ValueError(f"--which {which} is not allowed: latest or best")
    return latest_checkpoint(folder / BEST if which == BEST else folder, say=say)


def _step_back(
    newest: int, older: int, damage: CheckpointError, strict: bool, say: Callable[[str], None] | None
) -> None:
    reason = str(damage).partition(";")[0]
    if strict:
        raise CheckpointError(
            f"the checkpoint of iteration {newest} cannot be used: {reason}; --strict-resume does not go back to the "
            f"one of iteration {older}"
        )
    line = f"warning: going back from iteration {newest} to iteration {older}: {reason}"
    if say is None:
        warnings.warn(line.removeprefix("warning: "), stacklevel=3)
    else:
        say(line)


def set_newer_aside(folder: Path, step: int) -> None:
    """Rename what lies after `step`, which is damaged where `latest_checkpoint` went back to `step`, to `damaged-...`.

    A run that goes on from `step` would else count it among its newest.
    """
    for entry in _entries(Path(folder)):
        if entry.step > step:
            aside = entry.path.with_name(f"damaged-{entry.path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            entry.path.rename(aside)


def put_in_place(temporary: Path, step: int) -> Path:
    """Rename a checkpoint that is written to its own name, in the same folder; a kill leaves the old one or the new."""
    path = temporary.with_name(f"step_{step:012d}")
    if path.exists():
        old = path.with_name(f"{path.name}.old")
        if old.exists():
            shutil.rmtree(old)
        path.rename(old)
    temporary.rename(path)
    fsync_path(path.parent)
    return path


def prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` up to `step`, which was saved last, and what earlier removals left."""
    past = [entry for entry in _entries(folder) if entry.step <= step]
    newest = [entry.path for entry in past if entry.is_current and _looks_complete(entry.path)][-keep:]
    for path in [*(entry.path for entry in past if entry.path not in newest), *folder.glob(".writing-*")]:
        doomed = folder / f".writing-removed-{path.name}"
        os.rename(path, doomed)  # so that a kill leaves no half-deleted checkpoint under its own name
        shutil.rmtree(doomed)


def _looks_complete(path: Path) -> bool:
    try:
        check_complete(path)
    except CheckpointError:
        return False
    return True


def _entries(folder: Path) -> list[_Entry]:
    """Every checkpoint in `folder`, the newest last."""
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted(_Entry(int(match[1]), match[2] is None, path) for match, path in found if match is not None)
