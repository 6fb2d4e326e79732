"""What a sweep shows of the runs it has: at its end, and now and then before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dipod_jax.runs import RunFolder, RunFolderError, reason_of
from dipod_jax.studies.sweep.plan import Unit, read_plan


def draw(out: Path, say: Callable[[str], None], *, quiet: bool = False) -> None:
    """Draw what the units of the sweep `out` have come to, and say where it is unless `quiet`.

    What cannot be drawn is one warning: the runs are what they are.
    """
    try:
        shown = [unit for unit in read_plan(out) if _is_evaluated(unit)]
        if shown:
            where = _draw(out, shown, (lambda line: None) if quiet else say)
            if not quiet:
                say(f"pictures are in {where}")
    except Exception as error:
        say(f"warning: no pictures of {out} ({reason_of(error)})")


def _draw(out: Path, units: list[Unit], say: Callable[[str], None]) -> Path:
    """returns.png and drift.png of every task, in a folder of its own where there are several."""
    from dipod_jax.studies.comparison import compare

    tasks = list(dict.fromkeys(unit.config.task for unit in units))
    for task in tasks:
        of_task = [unit for unit in units if unit.config.task == task]
        where = out if len(tasks) == 1 else out / task.replace(":", ".")
        where.mkdir(exist_ok=True)
        say(compare([unit.folder for unit in of_task], where, labels=labels(of_task), title=task))
    return out


def labels(units: list[Unit]) -> list[str]:
    """Beta and whatever else tells the units apart; the id too where that does not."""
    rows = [unit.row() for unit in units]
    names = dict.fromkeys(["objective", *(name for unit in units for name in unit.grid)])
    varied = [name for name in names if len({row.get(name) for row in rows}) > 1]
    names = [", ".join([f"beta {row['beta']}", *(f"{n} {row.get(n)}" for n in varied)]) for row in rows]
    return [name if names.count(name) == 1 else f"{name}, {row['id']}" for name, row in zip(names, rows, strict=True)]


def _is_evaluated(unit: Unit) -> bool:
    try:
        records = RunFolder.open(unit.folder).read_metrics()
    except (RunFolderError, OSError):
        return False
    return any(record.get("kind") == "evaluation" for record in records)
