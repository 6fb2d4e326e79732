"""What is compared, on which seeds, and the grid that every method is tuned by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dipod_jax.checks import Checked, check_number, check_selection, require
from dipod_jax.config import Backend
from dipod_jax.envs.tasks import check_found
from dipod_jax.objectives import OBJECTIVES

# Env steps of a seed where --total-steps does not say: a third of each recipe or less.
STEPS = {"BallInCup": 500_000, "FingerSpin": 1_000_000, "CheetahRun": 1_000_000}
MOST = 1000  # values of an option: each is tried
# Options that may differ between the parts of one study: they say which of it is run, not what it is.
WHICH = ("objectives", "tasks", "total_steps", "out")


@dataclass(frozen=True)
class Config:
    """Compare objectives with beta 0 and with their best beta, each at the learning rate and trust region that suit it
    best."""

    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    """objectives to compare, in this order; by default all of them"""
    tasks: tuple[str, ...] = tuple(STEPS)
    """tasks, trained one after the other; each gets a table of all objectives"""
    total_steps: int | None = None
    """env steps of a seed, >= 1; none: 500k on BallInCup, 1M on any other task"""
    seed_list: tuple[int, ...] = (301, 302, 303)
    """seeds of the reported runs; they are not used for tuning"""
    tuning_seeds: tuple[int, ...] = (311, 312)
    """seeds on which learning rate, trust region and beta are chosen; none may be in --seed-list"""
    tuning_task: str | None = "BallInCup"
    """task on which every objective is tuned, for all tasks; none: tune on each task separately, which costs that many
    times more"""
    tuning_share: float = 0.5
    """length of a tuning run as a fraction of a reported run's, in (0, 1]"""
    rate_factors: tuple[float, ...] = (0.3, 1.0)
    """factors to try on the preset's initial and final learning rate, each > 0"""
    trust_factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """factors to try on the width of the trust region (`Objective.trust_region`), each > 0"""
    betas: tuple[float, ...] = (0.01, 0.03, 0.1)
    """betas to try at the learning rate and trust region that are best for beta 0, each > 0; the best beta is reported
    beside 0"""
    preset: Literal["cpu", "smoke"] = "cpu"
    """preset of all other options; smoke only shows that the command works"""
    backend: Backend = "auto"
    """physics, as for `dipod train`"""
    out: Path = Path("runs/methods")
    """folder of the study; the same command with the same folder continues it"""

    def __post_init__(self) -> None:
        check = Checked(self)
        check.choices()
        check_selection("objectives", self.objectives, OBJECTIVES)
        check_selection("tasks", self.tasks)
        for task in (*self.tasks, *filter(None, [self.tuning_task])):
            check_found(task)
        check.number("total_steps", low=1)
        for name in ("seed_list", "tuning_seeds", "rate_factors", "trust_factors", "betas"):
            values, flag = getattr(self, name), name.replace("_", "-")
            check_selection(flag, values)
            require(len(values) <= MOST, flag, f"of {len(values)} values", f"at most {MOST}")
            for value in values:
                seed = "seed" in name
                check_number(flag, value, 0.0, 2.0**31 - 1 if seed else float("inf"), open_low=not seed)
        shared = set(self.seed_list) & set(self.tuning_seeds)
        require(not shared, "tuning-seeds", " ".join(map(str, shared)), "a seed that is not in --seed-list")
        check.number("tuning_share", high=1.0, open_low=True)

    def steps(self, task: str) -> int:
        """Env steps of each seed of a reported run."""
        return self.total_steps or STEPS.get(task, 1_000_000)

    def tuning_steps(self, task: str) -> int:
        """Env steps of each seed of a tuning run."""
        return max(1, round(self.tuning_share * self.steps(task)))

    def settings(self) -> dict[str, Any]:
        """What must be the same in all parts of one study."""
        return {name: value for name, value in asdict(self).items() if name not in WHICH}
