"""The tasks there are by name."""

from __future__ import annotations

from dipod_jax.checks import require

# Playground's DM-Control tasks; a test holds this list against the installed Playground.
TASKS = (
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse"),
    *("CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard"),
    *("FishSwim", "HopperHop", "HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup"),
    *("PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)


def check_task(task: str) -> None:
    """Refuse a name that is no task."""
    what = f"one of {', '.join(TASKS)}" + (
        " (the locomotion and manipulation tasks clone their assets with git and are not offered)"
    )
    require(task in TASKS, "task", task, what)
