"""What a study was begun with, and its parts shared out: one folder holds one study, which the same command continues.

The command may run as often as one likes at the same time, on every machine that sees the folder: each process takes
parts that no other has.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dipod_jax.checks import require
from dipod_jax.runs import RunFolderError
from dipod_jax.runs._disk import plain, write_json
from dipod_jax.runs.lock import FolderLock, locked, who_has
from dipod_jax.runs.schema import read_json
from dipod_jax.runs.signals import say, stop_requested

STUDY, LOCKS = "study.json", "locks"
MAX_BYTES = 2**20
LOOK_AGAIN_S = 1.0

T = TypeVar("T")


@contextmanager
def begun(out: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder, and note in it what all of the study's runs share.

    A second after a signal the process ends: what a study has is in whole files of its runs.

    Raises:
        ValueError, RunFolderError: as `check_begun`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        check_begun(out, settings)
        write_json(out / STUDY, settings)
    with stop_requested() as stop, stop.abandonable(lambda: say("interrupted; the same command goes on")):
        yield


def check_begun(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose study was begun with other settings.

    Raises:
        ValueError, RunFolderError: one line.
    """
    try:
        before = read_json(out / STUDY, MAX_BYTES)
    except FileNotFoundError:
        return
    for name, now in plain(settings).items():
        what = f"{out} was begun with {before.get(name)}; give that, or name another --out"
        require(before.get(name) == now, name.replace("_", "-"), now, what)


def share_out(
    out: Path, parts: Sequence[T], name: Callable[[T], str], work: Callable[[T], None], say: Callable[[str], None]
) -> None:
    """Work on every part of the study in `out`, in this order but for those that other processes have: these come when
    they are free. Parts of one name are never worked on at the same time."""
    left, told = list(parts), False
    while left:
        taken: list[T] = []
        for part in left:
            folder = out / LOCKS / name(part)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = FolderLock(folder)
            except RunFolderError as error:
                taken.append(part)
                refusal = error
                continue
            try:
                work(part)
            finally:
                lock.release()
        if len(taken) == len(left):
            if not told:
                say(f"waiting for other processes of this study: {who_has(refusal)}")
            told = True
            time.sleep(LOOK_AGAIN_S)
        left = taken
