"""Whose draws are placed, and how often. Imports nothing slow."""

import dataclasses
from pathlib import Path

from dipod_jax.checks import Checked, check_choice
from dipod_jax.memory import Parts, Sizes, check_fits

TARGETS = ("gaussian", "two-modes")


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the variance of bounds and of their gradients for every placement of the (t, eps) draws, at equal
    cost."""

    run: Path | None = None
    """Run folder of a trained flow policy; without it a small network is fitted to a two-dimensional target."""
    out: Path | None = None
    """Folder for the result, new or empty; none: runs/placements/<time>."""
    num_draws: int = 8
    """Draws per action N, even and at least 2: the cost of every placement."""
    batch: int = 256
    """On-policy actions, >= 2."""
    redraws: int = 64
    """Independent redraws from which each variance is estimated, >= 8."""
    delta: float = 0.05
    """Cut-off of the ELBO, in (0, 1)."""
    target: str = "two-modes"
    """Without --run, what the network is fitted to: gaussian or two-modes."""
    fit_steps: int = 3000
    """Without --run, Adam steps of the network's fit to the target, >= 1."""
    seed: int = 0
    """Seed of all random numbers, >= 0."""

    def __post_init__(self) -> None:
        check = Checked(self)
        check.require(self.num_draws >= 2 and self.num_draws % 2 == 0, "num_draws", "an even number of at least 2")
        check.number("batch", low=2)
        check.number("redraws", low=8)
        check.require(0.0 < self.delta < 1.0, "delta", "more than 0 and less than 1")
        check_choice("target", self.target, TARGETS)
        check.number("fit_steps", low=1)
        check.number("seed", high=2**31 - 1)
        sizes = {"batch": self.batch, "num-draws": self.num_draws, "redraws": self.redraws, "fit-steps": self.fit_steps}
        check_fits(sizes, _bytes)


def _bytes(sizes: Sizes) -> Parts:
    draws = sizes["batch"] * sizes["num-draws"]
    return {"draws": 32 * draws, "bounds": 4 * sizes["batch"] * sizes["redraws"], "random keys": 8 * sizes["fit-steps"]}
