"""The available tasks: Playground's DM-Control suite, and `module:factory` for your own. Imports nothing heavy."""

from __future__ import annotations

import importlib.util

# Playground's DM-Control tasks; a test holds this list against the installed Playground.
TASKS = (
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse"),
    *("CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard"),
    *("FishSwim", "HopperHop", "HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup"),
    *("PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)


def is_own_task(name: str) -> bool:
    """Whether the name is of the form `module:factory`."""
    return ":" in name


def folder_name(task: str) -> str:
    """A task's name as that of a folder."""
    return task.replace(":", ".")


def check_task(name: str) -> None:
    """Raise ValueError, one line, unless the task is one of `TASKS` or `module:factory` with a module that is found.

    Neither Playground nor the module itself is imported (for `package.module`, the package is); what the factory
    returns is checked when the task is loaded.
    """
    if name in TASKS:
        return
    if not is_own_task(name):
        what = f"one of {', '.join(TASKS)}, or module:factory of your own"
        raise ValueError(f"--task {name} is not allowed: {what} (others of Playground's clone their assets with git)")
    module, _, factory = name.partition(":")
    if not (all(part.isidentifier() for part in module.split(".")) and factory.isidentifier()):
        raise ValueError(f"--task {name} is not allowed: module:factory is a module's name and a function's in it")
    if not _is_found(module):
        raise ValueError(
            f"--task {name} is not allowed: there is no module {module}; run from the folder that holds it, or set "
            "PYTHONPATH to that folder"
        )


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of a.b where a is no package; of a module that has no spec
        return False
