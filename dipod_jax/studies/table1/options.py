"""What of the study is run, and with how many seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dipod_jax.checks import Checked, check_selection
from dipod_jax.language import TASKS
from dipod_jax.studies.table1.arms import GROUPS


@dataclass(frozen=True)
class Config:
    """Train every diffusion-language objective with and without DiPOD on small tasks, and the controls of
    docs/table1.md."""

    seeds: int = 3
    """number of seeds of every arm, 0 .. seeds - 1, 1 to 1000. They share the pretrained model. All arms are trained
    with one seed before any is trained with the next"""
    tasks: tuple[str, ...] = tuple(TASKS)
    """tasks, one or more of: sudoku countdown"""
    groups: tuple[str, ...] = tuple(GROUPS)
    """which arms, one or more of: table released negatives distillation other-betas shift random-order phases
    pretraining family rates longer"""
    num_iterations: int | None = None
    """iterations of every arm, >= 1; none: the task's default, 90 or 100, and twice that in the group `longer`"""
    out: Path = Path("runs/table1")
    """folder of the study; the same command with the same folder continues it"""
    cache: Path = Path("runs/pretrained")
    """folder in which pretrained models are cached"""

    def __post_init__(self) -> None:
        check = Checked(self)
        check.number("seeds", low=1, high=1000)
        check.number("num_iterations", low=1)
        check_selection("tasks", self.tasks, TASKS)
        check_selection("groups", self.groups, GROUPS)
