"""The units of the study: what each trains, where it lies, and what a grid's results choose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipod_jax import config as training
from dipod_jax.envs.tasks import folder_name
from dipod_jax.options import override
from dipod_jax.presets import make_config
from dipod_jax.runs import RunFolderError
from dipod_jax.runs._disk import write_json
from dipod_jax.runs.folder import MAX_RESULT_BYTES
from dipod_jax.runs.schema import (
    Check,
    check_fields,
    is_count,
    is_group,
    is_number,
    is_text,
    list_of,
    or_none,
    read_json,
    whole,
)
from dipod_jax.serialisation import from_json, to_json
from dipod_jax.studies.methods.options import Config

RESULT, FAILURE = "result.json", "failure.json"
POINTS = 8  # evaluations and measurements of a reported run, the last at its end


@dataclass(frozen=True)
class Setting:
    """What is tuned."""

    rate: float = 1.0
    """factor on the preset's learning rate"""
    trust: float = 1.0
    """factor on what bounds a step"""
    beta: float = 0.0

    @property
    def distance(self) -> float:
        """From the preset's own rate and trust region, in logarithms of both."""
        return abs(math.log(self.rate)) + abs(math.log(self.trust))

    def __str__(self) -> str:
        return f"rate{self.rate:g}-trust{self.trust:g}-beta{self.beta:g}"


@dataclass(frozen=True)
class Unit:
    """One config, trained with all of its seeds at once."""

    task: str
    objective: str
    setting: Setting
    reported: bool
    """False for a tuning run, which is shorter, on other seeds, without the drift meter"""
    config: training.Config
    folder: Path
    tuned_in: str
    """name of the folder of its method's tuning runs"""

    @property
    def points(self) -> int:
        """Evaluations in the course of training, the last at its end."""
        return POINTS if self.reported else 1

    def read(self) -> dict[str, Any] | None:
        """Its complete result; None where there is none.

        Raises:
            RunFolderError: as `read_result`, or it was trained with other options, as by another version's preset.
        """
        try:
            result = read_result(self.folder / RESULT)
        except FileNotFoundError:
            return None
        self._check_trained_alike(result.get("config"))
        return result

    def _check_trained_alike(self, stored: Mapping[str, Any] | None) -> None:
        where = f"{self.folder / RESULT} was trained"
        if stored is None:
            raise RunFolderError(f"{where} by a version that noted no options; name another --out")
        try:
            found = training.differences(from_json(stored), self._trained)
        except ValueError as error:
            raise RunFolderError(f"{where} by another version ({error}); name another --out") from None
        for name, (was, now) in found.items():
            raise RunFolderError(f"{where} with {name} {was}, now {now}; name another --out")

    @property
    def _trained(self) -> training.Config:
        """The config as a result holds it: without the folder, which may move."""
        return dataclasses.replace(self.config, out=None)

    def write(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write its result, and return it as `read` does."""
        described = {name: getattr(self, name) for name in ("task", "objective", "reported", "tuned_in")}
        described |= {**vars(self.setting), "seeds": self.config.all_seeds, "config": to_json(self._trained)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RESULT, described | outcome)
        (self.folder / FAILURE).unlink(missing_ok=True)
        return read_result(self.folder / RESULT)

    def failed_since(self, when: float) -> bool:
        """Whether it has been tried in vain since then, in seconds since the epoch."""
        try:
            return (self.folder / FAILURE).stat().st_mtime >= when
        except FileNotFoundError:
            return False

    def write_failure(self, error: Exception) -> str:
        """Record why it has no result, and return the line that says so; the next command tries it again."""
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / FAILURE, {"error": line, **vars(self.setting)})
        return line


def read_result(path: Path) -> dict[str, Any]:
    """What `Unit.write` wrote.

    Raises:
        FileNotFoundError: there is no file.
        RunFolderError: one line: it is anything else.
    """
    with whole(path, "delete it, and the same command trains that run again"):
        result = read_json(path, MAX_RESULT_BYTES)
        check_fields(result, _RESULT)
        check_fields(result, {"config": is_group} if "config" in result else {})  # earlier versions wrote none
        check_fields(result, {"skipped_updates": _a_seed(result, or_none(is_number))})
        for part, names in (("evaluations", ("return", "zero_noise")), ("drift", ("gap", "cosine"))):
            for point in result[part]:
                check_fields(point, {"env_steps": is_count} | dict.fromkeys(names, _a_seed(result, or_none(is_number))))
    return result


_RESULT: dict[str, Check] = {
    **dict.fromkeys(("task", "objective", "tuned_in"), is_text),
    **dict.fromkeys(("rate", "trust", "beta", "training_s", "compile_s"), is_number),
    "reported": lambda value: isinstance(value, bool),
    "seeds": lambda value: list_of(is_count)(value) and value,
    "env_steps": is_count,
    "evaluations": lambda value: list_of(is_group)(value) and value,
    "drift": list_of(is_group),
}


def _a_seed(result: Mapping[str, Any], fits: Check) -> Check:
    """A list of what fits, one for each seed."""
    return lambda value: list_of(fits)(value) and len(value) == len(result["seeds"])


def make_unit(options: Config, task: str, objective: str, setting: Setting, *, reported: bool) -> Unit:
    """A unit of the study.

    Raises:
        ValueError: one line: the objective cannot have this setting.
    """
    steps = options.steps(task) if reported else options.tuning_steps(task)
    start, _ = make_config(options.preset, task, objective, options.backend)
    first, last = start.learning.learning_rate, start.learning.final_learning_rate
    method = {f"objective.{n}": setting.trust * value for n, value in trust_region(start).items()}
    config = override(
        start,
        method
        | {
            "beta": setting.beta,
            "seed_list": options.seed_list if reported else options.tuning_seeds,
            "total_steps": steps,
            "learning.learning_rate": setting.rate * first,
            "learning.final_learning_rate": None if last is None else setting.rate * last,
            "evaluation.num_episodes": 32,
            "evaluation.num_episodes_during": 16,
            "drift.interval": 1 if reported else 0,  # the study says when; 0 compiles no meter
        },
    )
    tuned_on = options.tuning_task or task
    tuned_in = f"tuning-{folder_name(tuned_on)}-{options.tuning_steps(tuned_on)}"
    place = f"reported-{folder_name(task)}-{steps}" if reported else tuned_in
    return Unit(task, objective, setting, reported, config, options.out / place / objective / str(setting), tuned_in)


def trust_region(config: training.Config) -> dict[str, float]:
    """What bounds a step of the config's objective, by option; empty where nothing does."""
    values = {name: getattr(config.objective, name, None) for name in config.objective.trust_region}
    return {name: value for name, value in values.items() if value is not None}


def grid(options: Config, task: str, objective: str) -> list[Unit]:
    """The tuning runs at beta 0: every rate with every trust region."""
    bounded = trust_region(make_config(options.preset, task, objective, options.backend)[0])
    trusts = options.trust_factors if bounded else (1.0,)
    settings = [Setting(rate, trust) for rate in options.rate_factors for trust in trusts]
    return [make_unit(options, task, objective, setting, reported=False) for setting in settings]


def with_betas(options: Config, task: str, objective: str, best: Setting) -> list[Unit]:
    """The tuning runs of every beta at the rate and trust region that are best without; none where there is no bound
    to keep tight."""
    if not make_config(options.preset, task, objective, options.backend)[0].policy.has_bound:
        return []
    settings = [Setting(best.rate, best.trust, beta) for beta in options.betas]
    return [make_unit(options, task, objective, setting, reported=False) for setting in settings]


def best_of(units: Iterable[Unit]) -> Setting | None:
    """The setting with the highest final return, averaged over its seeds. Ties, as when nothing was learned, go to the
    setting nearest to the preset's, then to the first. None if no unit has a return that is a number."""
    scored = [(score, unit.setting) for unit in units if (score := _score(unit.read())) > -math.inf]
    return max(scored, key=lambda x: (x[0], -x[1].distance))[1] if scored else None


def _score(result: dict[str, Any] | None) -> float:
    returns = [] if result is None else result["evaluations"][-1]["return"]
    return sum(returns) / len(returns) if returns and None not in returns else -math.inf
