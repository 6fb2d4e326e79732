"""The study itself: one arm after the other, by as many processes as one starts; what is finished is not run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipod_jax.config import differences
from dipod_jax.language.config import LanguageConfig, from_json, make_config
from dipod_jax.options import override
from dipod_jax.runs import RunFolder
from dipod_jax.runs._disk import write_json
from dipod_jax.runs.places import CONFIG
from dipod_jax.studies.begun import begun, check_begun, share_out
from dipod_jax.studies.table1.arms import Arm, make_arms
from dipod_jax.studies.table1.options import Config
from dipod_jax.studies.table1.results import ARM, WAY_OUT, write_results

if TYPE_CHECKING:
    from dipod_jax.language.post_training import Programs

Train = Callable[[LanguageConfig, Callable[[str], None]], Any]


@dataclass(frozen=True)
class Unit:
    """One seed of an arm, and its run folder."""

    arm: Arm
    config: LanguageConfig

    @property
    def folder(self) -> Path:
        assert self.config.out is not None
        return self.config.out

    def is_finished(self) -> bool:
        """Whether its run has ended.

        Raises:
            RunFolderError, ValueError: as `to_run`.
        """
        if not (self.folder / ARM).exists():
            return False
        self._check_options()
        return True

    def to_run(self) -> LanguageConfig:
        """The config, which goes on with what a run has left that was stopped.

        Raises:
            RunFolderError, ValueError: the folder is no run's, or of one with other options.
        """
        if not (self.folder / CONFIG).exists():
            return self.config
        self._check_options()
        return dataclasses.replace(self.config, resume=True)

    def _check_options(self) -> None:
        """Refuse a run of the folder's name that was made with other options than those that this arm has now."""
        ignored = ("out", "cache", *(() if self.config.beta == "auto" else ("beta-control.",)))  # what nothing reads
        changed = differences(from_json(RunFolder.open(self.folder).config), self.config)
        if changed := [name for name in changed if not name.startswith(ignored)]:
            raise ValueError(f"{self.folder} holds a run with another {min(changed)}; {WAY_OUT}")


def make_units(options: Config, start: Callable[[str, str], LanguageConfig] = make_config) -> list[Unit]:
    """Every seed of every arm with its config, in the order in which they are run.

    Args:
        start: (task, method) -> the config that an arm changes.
    """
    shared: dict[str, Any] = {"seeds": 1, "cache": options.cache}
    if options.num_iterations is not None:
        shared["learning.num_iterations"] = options.num_iterations
    arms = make_arms(options.tasks, options.groups)
    configs = [override(arm.config(start), shared) for arm in arms]
    return [
        Unit(arm, override(config, {"first_seed": seed, "out": options.out / arm.task / arm.name / f"seed{seed}"}))
        for seed in range(options.seeds)
        for arm, config in zip(arms, configs, strict=True)
    ]


def check_settings(options: Config) -> None:
    """Refuse a folder whose study was begun with other iterations.

    Raises:
        ValueError: one line.
    """
    check_begun(options.out, _settings(options))


def _settings(options: Config) -> dict[str, Any]:
    return {"num_iterations": options.num_iterations}


def run(options: Config, units: list[Unit], train: Train, say: Callable[[str], None] = print) -> Path:
    """Run whatever is not finished yet and write the tables after each arm; returns the table's path.

    Args:
        train: trains a config into its folder (`Trainer`).
    """
    with begun(options.out, _settings(options)):
        _run_all(options, units, train, say)
        return write_results(options.out)


def _run_all(options: Config, units: list[Unit], train: Train, say: Callable[[str], None]) -> None:
    def finish(unit: Unit) -> None:
        if unit.is_finished():
            return
        config = unit.to_run()
        say(f"{units.index(unit) + 1} of {len(units)}: {place(unit)}")
        train(config, say)
        described = {name: getattr(unit.arm, name) for name in ("task", "group", "method", "beta", "control")}
        rate, iterations = unit.config.learning.learning_rate, unit.config.learning.num_iterations
        write_json(unit.folder / ARM, described | {"learning_rate": rate, "num_iterations": iterations})
        write_results(options.out)

    place = lambda unit: str(unit.folder.relative_to(options.out))
    share_out(options.out, units, place, finish, say)


class Trainer:
    """Trains configs, those that differ in `Tunables`, seeds, lengths and folders alone in one compiled program."""

    MOST_PROGRAMS = 8  # of some hundred megabytes each

    def __init__(self) -> None:
        self.programs: dict[str, Programs] = {}

    def __call__(self, config: LanguageConfig, say: Callable[[str], None]) -> None:
        from dipod_jax.language.loop import train
        from dipod_jax.language.post_training import make_programs, program_key

        key = program_key(config)
        if key not in self.programs:
            if len(self.programs) == self.MOST_PROGRAMS:
                del self.programs[next(iter(self.programs))]
            self.programs[key] = make_programs(config)
        train(config, programs=self.programs[key], say=say)
