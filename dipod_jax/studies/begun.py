"""What a study was begun with: one folder holds one study, which the same command continues."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.runs._disk import plain, write_json
from dipod_jax.runs.lock import FolderLock
from dipod_jax.runs.schema import read_json
from dipod_jax.runs.signals import say, stop_requested

STUDY = "study.json"
MAX_BYTES = 2**20


@contextmanager
def begun(out: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder, have it to oneself meanwhile, and note in it what all of the study's runs share.

    A second after a signal the process ends: what a study has is in whole files of its runs.

    Raises:
        RunFolderError: another process has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    try:
        write_json(out / STUDY, settings)
        with stop_requested() as stop, stop.abandonable(lambda: say("interrupted; the same command goes on")):
            yield
    finally:
        lock.release()


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
