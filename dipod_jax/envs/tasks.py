"""The available tasks: Playground's DM-Control suite, and `module:factory` for your own. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from importlib.machinery import PathFinder

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
    """Raise ValueError, one line, unless the name is one of `TASKS` or of the form `module:factory`."""
    if name in TASKS:
        return
    if not is_own_task(name):
        what = f"one of {', '.join(TASKS)}, or module:factory of your own"
        raise ValueError(f"--task {name} is not allowed: {what} (others of Playground's clone their assets with git)")
    module, _, factory = name.partition(":")
    if not (all(part.isidentifier() for part in module.split(".")) and factory.isidentifier()):
        raise ValueError(f"--task {name} is not allowed: module:factory is a module's name and a function's in it")


def check_found(name: str) -> None:
    """As `check_task`, and for a task of your own unless its module is found.

    Nothing is imported, neither Playground nor the module; what the factory returns is checked when the task is loaded.
    """
    check_task(name)
    module = name.partition(":")[0]
    if is_own_task(name) and not module_files(module):
        raise ValueError(
            f"--task {name} is not allowed: there is no module {module}; run from the folder that holds it, or set "
            "PYTHONPATH to that folder"
        )


def module_files(module: str) -> list[str]:
    """The files of `package.module`, the package's first, without importing it; empty if there is no such module."""
    parts = module.split(".")
    try:
        specs = [importlib.util.find_spec(parts[0])]
    except ValueError:  # imported, but not from a file
        return []
    for depth in range(2, len(parts) + 1):
        if specs[-1] is None or specs[-1].submodule_search_locations is None:
            return []
        where = specs[-1].submodule_search_locations
        specs.append(PathFinder.find_spec(".".join(parts[:depth]), where))
    return [] if specs[-1] is None else [spec.origin or "" for spec in specs if spec is not None]
