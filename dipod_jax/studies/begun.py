"""What a study was begun with: one folder holds one study, which the same command continues."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.runs._disk import plain, write_json

STUDY = "study.json"


def begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, and note in it what all of the study's runs share."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / STUDY, settings)


def check_begun(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose study was begun with other settings.

    Raises:
        ValueError: one line.
    """
    path = out / STUDY
    begun = json.loads(path.read_text()) if path.exists() else {}
    for name, now in plain(settings).items():
        what = f"{out} was begun with {begun.get(name)}; give that, or name another --out"
        require(not begun or begun.get(name) == now, name.replace("_", "-"), now, what)
