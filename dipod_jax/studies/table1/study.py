"""The study itself: one arm after the other; what is finished is not run again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.language.config import LanguageConfig, make_config
from dipod_jax.options import override
from dipod_jax.runs import RunFolder
from dipod_jax.runs._disk import write_json
from dipod_jax.studies.table1.arms import Arm, make_arms
from dipod_jax.studies.table1.options import Config
from dipod_jax.studies.table1.results import ARM, STUDY, write_results

Train = Callable[[LanguageConfig, Callable[[str], None]], Any]


@dataclass(frozen=True)
class Unit:
    """An arm, and the run folder of all its seeds."""

    arm: Arm
    config: LanguageConfig

    @property
    def folder(self) -> Path:
        assert self.config.out is not None
        return self.config.out

    def is_finished(self) -> bool:
        """Whether its run has ended."""
        return (self.folder / ARM).exists()

    def clear(self) -> None:
        """Remove what a run left that was stopped: an arm takes minutes, and begins anew.

        `arm.json` is written last, so that a folder without it is of such a run.

        Raises:
            RunFolderError: another process writes there, or it is not a run's folder.
        """
        if self.folder.exists() and any(self.folder.iterdir()):
            RunFolder.resume(self.folder).close()
            shutil.rmtree(self.folder)


def make_units(options: Config, start: Callable[[str, str], LanguageConfig] = make_config) -> list[Unit]:
    """Every arm of the study with its config, in the order in which they are run.

    Args:
        start: (task, method) -> the config that an arm changes.
    """
    units = []
    for arm in make_arms(options.tasks, options.groups):
        out = options.out / arm.task / arm.name
        changes: dict[str, Any] = {"seeds": options.seeds, "out": out, "cache": options.cache}
        if options.num_iterations is not None:
            changes["learning.num_iterations"] = options.num_iterations
        units.append(Unit(arm, override(arm.config(start), changes)))
    return units


def check_settings(options: Config) -> None:
    """Refuse a folder whose study was begun with other seeds or iterations.

    Raises:
        ValueError: one line.
    """
    path = options.out / STUDY
    begun = json.loads(path.read_text()) if path.exists() else {}
    for name, now in _settings(options).items():
        what = f"{options.out} was begun with {begun.get(name)}; give that, or name another --out"
        require(not begun or begun.get(name) == now, name.replace("_", "-"), now, what)


def _settings(options: Config) -> dict[str, Any]:
    return {"seeds": options.seeds, "num_iterations": options.num_iterations}


def run(options: Config, units: list[Unit], train: Train, say: Callable[[str], None] = print) -> Path:
    """Run whatever is not finished yet and write the tables after each arm; returns the table's path.

    Args:
        train: trains a config into its folder (`Trainer`).
    """
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / STUDY, _settings(options))
    for number, unit in enumerate(units, start=1):
        if unit.is_finished():
            continue
        unit.clear()
        say(f"{number} of {len(units)}: {unit.arm.task}, {unit.arm.name}")
        train(unit.config, say)
        described = {name: getattr(unit.arm, name) for name in ("task", "group", "method", "beta", "control")}
        rate, iterations = unit.config.learning.learning_rate, unit.config.learning.num_iterations
        write_json(unit.folder / ARM, described | {"learning_rate": rate, "num_iterations": iterations})
        write_results(options.out)
    return write_results(options.out)


class Trainer:
    """Trains configs, those that differ in `Tunables`, lengths and folders alone in one compiled program."""

    def __init__(self) -> None:
        self._key, self._programs = "", None

    def __call__(self, config: LanguageConfig, say: Callable[[str], None]) -> None:
        import jax

        from dipod_jax.language.loop import train
        from dipod_jax.language.post_training import make_programs

        key = self.key(config)
        if self._programs is None or key != self._key:
            jax.clear_caches()  # another method's programs would only take memory
            self._key, self._programs = key, make_programs(config)
        train(config, programs=self._programs, say=say)

    @staticmethod
    def key(config: LanguageConfig) -> str:
        """The same for configs that one program serves."""
        data = {"learning.learning_rate": 1.0, "learning.advantage_shift": 0.0, "learning.num_iterations": 1}
        data |= {"measure.drift_interval": int(config.measures_drift), "measure.evaluation_interval": 1}
        return repr(override(config, {"beta": 0.0, "method": "fpo", "out": None, **data}))
