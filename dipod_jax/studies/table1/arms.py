"""The arms of the study: the table's cells, and the controls, each a config that differs from a method's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dipod_jax.language.config import LanguageConfig, make_config
from dipod_jax.options import override

Beta = float | Literal["auto"]

TABLE_METHODS = ("d1", "fpo", "spg")
FAMILY: dict[str, float] = {
    "wd1": 0.1,
    "coupled-grpo": 0.05,
    "unigrpo": 0.05,
    "espo": 0.05,
    "gdpo": 0.05,
    "bgpo": 0.05,
    "dmpo": 0.5,
    "gdsd": 0.005,
}
"""Method -> its beta in the study: .05 times what multiplies A in its gradient at the acting policy, 1 for most, 2 for
wd1, 2 psi = .1 for gdsd, and about 10 for dmpo, whose softmax at a temperature of .04 gives all weight to the best and
the worst answers."""
RATES = (1e-4, 3e-4, 1e-3)
ON_AND_OFF: tuple[Beta, ...] = (0.05, 0.0)
MEASURED_EVERY = 15  # iterations; a measurement costs as much as eight of them
RANDOM_ORDER = {
    "policy.decoder.order": "random",
    "policy.decoder.tokens_per_step": 1,
    "policy.decoder.temperature": 1.0,
}
# Steps after which a model with a random head solves about as much as the default one: .37 and .24, not .32 and .25.
RANDOM_HEAD = {
    "sudoku": {"network.head": "random", "pretraining.steps": 91},
    "countdown": {"network.head": "random", "pretraining.steps": 1950},
}


@dataclass(frozen=True)
class Arm:
    """One method on one task, in one setting."""

    task: str
    group: str
    method: str
    beta: Beta = 0.0
    control: str = ""
    """what differs from the method's own setting; empty where nothing does"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """options of the config by dotted name"""
    longer: int = 1
    """factor on the task's number of iterations"""

    @property
    def name(self) -> str:
        """Of its folder, unique within a task."""
        return f"{self.method}-beta{self.beta}" + (f"-{self.control.replace(' ', '-')}" if self.control else "")

    def config(self, start: Callable[[str, str], LanguageConfig] = make_config) -> LanguageConfig:
        """Its config, without seeds and folders."""
        config = start(self.task, self.method)
        iterations = self.longer * config.learning.num_iterations
        changes: dict[str, Any] = {"beta": self.beta, "learning.num_iterations": iterations, **self.changes}
        if self.beta != "auto":  # which is adjusted at every measurement
            changes["measure.drift_interval"] = MEASURED_EVERY
        return override(config, {"measure.evaluation_interval": MEASURED_EVERY} | changes)


def _table(task: str) -> Iterator[Arm]:
    for method in ("fpo", "d1", "spg"):
        yield from (Arm(task, "table", method, beta) for beta in ON_AND_OFF)


def _other_betas(task: str) -> Iterator[Arm]:
    betas: tuple[Beta, ...] = (0.01, "auto")
    for method in ("fpo", "d1", "spg"):
        yield from (Arm(task, "other-betas", method, beta) for beta in betas)


def _released(task: str) -> Iterator[Arm]:
    yield from (Arm(task, "released", "fpo-released", beta) for beta in (0.0, 0.05))


def _negatives(task: str) -> Iterator[Arm]:
    positive = {"learning.advantages": "positive"}
    yield from (Arm(task, "negatives", method, 0.0, "positive only", positive) for method in ("fpo", "d1", "spg"))
    yield Arm(task, "negatives", "fpo", 0.05, "positive only", positive)


def _distillation(task: str) -> Iterator[Arm]:
    yield Arm(task, "distillation", "fpo", 0.05, "no reward", {"learning.advantages": "none"})


def _shift(task: str) -> Iterator[Arm]:
    yield from (
        Arm(task, "shift", "fpo", 0.0, f"advantage shift {shift}", {"learning.advantage_shift": shift})
        for shift in (0.05, 0.01)
    )


def _phases(task: str) -> Iterator[Arm]:
    for interval in (1, 10):
        changes = {"learning.distillation_interval": interval}
        yield Arm(task, "phases", "fpo", 0.0, f"distilled every {interval}", changes)


def _random_order(task: str) -> Iterator[Arm]:
    yield from (Arm(task, "random-order", "fpo", beta, "random order", RANDOM_ORDER) for beta in ON_AND_OFF)


def _rates(task: str) -> Iterator[Arm]:
    for method in ("fpo", "spg", "d1"):
        own = make_config(task, method).learning.learning_rate
        for rate in (rate for rate in RATES if rate != own):
            for beta in ON_AND_OFF:
                yield Arm(task, "rates", method, beta, f"rate {rate:g}", {"learning.learning_rate": rate})


def _longer(task: str) -> Iterator[Arm]:
    for method in ("fpo", "d1", "spg"):
        yield from (Arm(task, "longer", method, beta, "twice as long", longer=2) for beta in ON_AND_OFF)


def _family(task: str) -> Iterator[Arm]:
    for method, beta in FAMILY.items():
        yield from (Arm(task, "family", method, b) for b in (beta, 0.0))


def _pretraining(task: str) -> Iterator[Arm]:
    """Other models to start from, at about the same accuracy."""
    changes = {"another model": {"pretraining.seed": 1}, "random head": RANDOM_HEAD[task]}
    for control, change in changes.items():
        yield from (Arm(task, "pretraining", "fpo", beta, control, change) for beta in ON_AND_OFF)


GROUPS: dict[str, Callable[[str], Iterable[Arm]]] = {
    "table": _table,
    "released": _released,
    "negatives": _negatives,
    "distillation": _distillation,
    "other-betas": _other_betas,
    "shift": _shift,
    "random-order": _random_order,
    "phases": _phases,
    "pretraining": _pretraining,
    "family": _family,
    "rates": _rates,
    "longer": _longer,
}
"""Name -> arms of a task. What decides the verdict comes first, so that a study that is stopped has said the most."""


def make_arms(tasks: Iterable[str], groups: Iterable[str]) -> list[Arm]:
    """The arms of the chosen groups, in the order of `GROUPS`, the tasks by turns."""
    tasks, groups = tuple(tasks), set(groups)
    return [arm for name, group in GROUPS.items() if name in groups for task in tasks for arm in group(task)]
