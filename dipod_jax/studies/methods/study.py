"""The study itself: one method after the other on one task after the other, by as many processes as one starts; what is
finished is not run again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dipod_jax.studies.begun import begun, check_begun, share_out
from dipod_jax.studies.methods.options import Config
from dipod_jax.studies.methods.results import read_records, write_results
from dipod_jax.studies.methods.units import Setting, Unit, best_of, grid, make_unit, with_betas


class TrainsUnits(Protocol):
    """`training.Trainer`, or what stands in for it."""

    def train(self, unit: Unit) -> dict[str, Any]:
        """What the unit's result holds beside its description."""
        ...


def check_settings(options: Config) -> None:
    """Refuse a folder whose study was begun with other settings, a grid that some method cannot have, and results that
    were trained with other options than this version's preset gives.

    Raises:
        ValueError, RunFolderError: one line.
    """
    tasks = dict.fromkeys((*options.tasks, *filter(None, [options.tuning_task])))
    for task in tasks:
        for objective in options.objectives:
            for unit in grid(options, task, objective):
                with_betas(options, task, objective, unit.setting)
    check_begun(options.out, options.settings())
    for found in read_records(options.out):
        if found["task"] in tasks and found["objective"] in options.objectives:
            setting = Setting(found["rate"], found["trust"], found["beta"])
            make_unit(options, found["task"], found["objective"], setting, reported=found["reported"]).read()


def run(options: Config, trainer: TrainsUnits, say: Callable[[str], None] = print) -> Path:
    """Run whatever is not finished yet and write the tables after each unit; returns the table's path.

    A unit that fails is recorded in its folder and left out of every choice.

    Raises:
        OSError: the disk refuses a result.
    """
    with begun(options.out, options.settings()):
        _run_all(options, trainer, say)
        return write_results(options.out)


def _run_all(options: Config, trainer: TrainsUnits, say: Callable[[str], None]) -> None:
    started = time.time()

    def finish(unit: Unit) -> None:
        where = unit.folder.relative_to(options.out)
        if unit.read() is not None or unit.failed_since(started):  # in another process of this command
            return
        try:
            result = unit.write(trainer.train(unit))
        except OSError:
            raise
        except Exception as error:
            say(f"{where}: failed, and is left out: {unit.write_failure(error)}")
            return
        returns = " ".join("-" if x is None else f"{x:.0f}" for x in result["evaluations"][-1]["return"])
        say(f"{where}: return {returns}, {result['training_s']:.0f} s of training, {result['compile_s']:.0f} s before")
        write_results(options.out)

    def compare(method: tuple[str, str]) -> None:
        task, objective = method
        chosen = tune(options, options.tuning_task or task, objective, finish)
        if not chosen:
            say(f"{objective} on {task}: no tuning run has a return, so that nothing is reported")
        for setting in chosen:
            finish(make_unit(options, task, objective, setting, reported=True))

    methods = list(itertools.product(options.tasks, options.objectives))
    share_out(options.out, methods, lambda method: method[1], compare, say)  # its tuning runs serve all tasks


def tune(options: Config, task: str, objective: str, finish: Callable[[Unit], None]) -> list[Setting]:
    """The settings to report: the best of the grid at beta 0, and with the best of the betas; fewer where none of them
    has a return."""
    cells = grid(options, task, objective)
    for unit in cells:
        finish(unit)
    best = best_of(cells)
    if best is None:
        return []
    held = with_betas(options, task, objective, best)
    for unit in held:
        finish(unit)
    with_beta = best_of(held)
    return [best] if with_beta is None else [best, with_beta]
