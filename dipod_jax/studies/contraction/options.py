"""What is distilled, how, and for how long. Imports nothing slow."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

from dipod_jax.checks import check_choice, check_selection, require
from dipod_jax.memory import Parts, Sizes, check_fits

TARGETS = ("gaussian", "two-modes")


class Arm(NamedTuple):
    """One way to distil: the sampler that acts, and what noise its actions are paired with."""

    name: str
    method: str
    num_steps: int
    grid: str = "uniform"
    own_pairs: bool = False
    """Pair each action with the base noise it was made of, instead of fresh noise."""


ARMS = (
    Arm("euler-10", "euler", 10),
    Arm("euler-64", "euler", 64),
    Arm("euler-10-refined", "euler", 10, "refined"),
    Arm("heun-10", "heun", 10),
    Arm("midpoint-5", "midpoint", 5),
    Arm("midpoint-10", "midpoint", 10),
    Arm("midpoint-20", "midpoint", 20),
    Arm("euler-10-own-pairs", "euler", 10, "uniform", True),
)


def _bytes(sizes: Sizes) -> Parts:
    keys = sizes["steps"] + sizes["rounds"] + sizes["fit-steps"]
    return {"actions": 256 * sizes["batch"], "random keys": 8 * keys}


@dataclasses.dataclass(frozen=True)
class Config:
    """Self-distil a two-dimensional flow policy, and measure its standard deviation after every round."""

    out: Path | None = None
    """Folder for the results, new or empty; none: runs/contraction/<time>."""
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    """Which samplers, one or more of: euler-10 euler-64 euler-10-refined heun-10 midpoint-5 midpoint-10 midpoint-20
    euler-10-own-pairs."""
    rounds: int = 50
    """Rounds of self-distillation, >= 1."""
    steps: int = 300
    """Adam steps in a round, >= 1."""
    batch: int = 1024
    """Fresh actions of the frozen policy per step, >= 2."""
    learning_rate: float = 3e-4
    """Initial learning rate of a round, decayed linearly to 0; positive and finite."""
    fit_steps: int = 4000
    """Adam steps of the initial fit to the target, >= 1."""
    target: str = "gaussian"
    """What the initial policy is fitted to: gaussian or two-modes."""
    std: float = 0.3
    """Standard deviation of the target (of each mode), in (0, 10]; the time grid of euler-10-refined is designed for
    it."""
    samples: int = 16384
    """Actions on which a standard deviation is measured, in [256, 1048576]."""
    seed: int = 0
    """Seed, >= 0."""

    def __post_init__(self) -> None:
        check_selection("arms", self.arms, [arm.name for arm in ARMS])
        for name in ("rounds", "steps", "fit_steps"):
            require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "an integer of at least 1")
        require(self.batch >= 2, "batch", self.batch, "an integer of at least 2")
        require(256 <= self.samples <= 2**20, "samples", self.samples, "an integer in [256, 1048576]")
        require(0.0 < self.learning_rate < math.inf, "learning-rate", self.learning_rate, "positive and finite")
        check_choice("target", self.target, TARGETS)
        require(0.0 < self.std <= 10.0, "std", self.std, "in (0, 10]")
        require(0 <= self.seed < 2**31, "seed", self.seed, "an integer, 0 <= seed < 2^31")
        sizes = {"batch": self.batch, "rounds": self.rounds, "steps": self.steps, "fit-steps": self.fit_steps}
        check_fits(sizes, _bytes)

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms asked for, in the order of `ARMS`."""
        return tuple(arm for arm in ARMS if arm.name in self.arms)
