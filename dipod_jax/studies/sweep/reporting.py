"""The report of a sweep, written at its end and from time to time before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dipod_jax.runs import RunFolder, RunFolderError, reason_of
from dipod_jax.studies.sweep.plan import Unit, read_plan


def draw(out: Path, say: Callable[[str], None], *, quiet: bool = False) -> None:
    """Write the report of the sweep `out`, and say where it is unless `quiet`; nothing before the first evaluation.

    If it cannot be written, one warning says so; the runs are not affected.
    """
    try:
        if any(_is_evaluated(unit) for unit in read_plan(out)):
            from dipod_jax.report import write_study_report

            page = write_study_report(out)
            if not quiet:
                say(f"the report is {page}")
    except Exception as error:
        say(f"warning: no report of {out} ({reason_of(error)})")


def _is_evaluated(unit: Unit) -> bool:
    try:
        records = RunFolder.open(unit.folder).read_metrics()
    except (RunFolderError, OSError):
        return False
    return any(record.get("kind") == "evaluation" for record in records)
