"""The available tasks: Playground's DM-Control suite, and `module:factory` for your own. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple


class Control(NamedTuple):
    """How a task is acted on."""

    step: float
    """seconds from one action to the next"""
    num_actuators: int


_CARTPOLE, _FINGER, _WALKER, _HUMANOID = Control(0.01, 1), Control(0.02, 2), Control(0.025, 6), Control(0.025, 21)
_ACROBOT, _HOPPER, _REACHER = Control(0.01, 1), Control(0.02, 4), Control(0.02, 2)
# Playground's DM-Control tasks; a test holds names and numbers against the installed Playground.
CONTROL = {
    **{"AcrobotSwingup": _ACROBOT, "AcrobotSwingupSparse": _ACROBOT, "BallInCup": Control(0.02, 2)},
    **{"CartpoleBalance": _CARTPOLE, "CartpoleBalanceSparse": _CARTPOLE},
    **{"CartpoleSwingup": _CARTPOLE, "CartpoleSwingupSparse": _CARTPOLE, "CheetahRun": Control(0.01, 6)},
    **{"FingerSpin": _FINGER, "FingerTurnEasy": _FINGER, "FingerTurnHard": _FINGER, "FishSwim": Control(0.04, 5)},
    **{"HopperHop": _HOPPER, "HopperStand": _HOPPER},
    **{"HumanoidRun": _HUMANOID, "HumanoidStand": _HUMANOID, "HumanoidWalk": _HUMANOID},
    **{"PendulumSwingup": Control(0.02, 1), "PointMass": Control(0.02, 2)},
    **{"ReacherEasy": _REACHER, "ReacherHard": _REACHER, "SwimmerSwimmer6": Control(0.03, 5)},
    **{"WalkerRun": _WALKER, "WalkerStand": _WALKER, "WalkerWalk": _WALKER},
}
TASKS = tuple(CONTROL)


def is_own_task(name: str) -> bool:
    """Whether the name is of the form `module:factory`."""
    return ":" in name


def control_of(name: str) -> Control:
    """How the task is acted on; a task of your own is loaded for it.

    Raises:
        ValueError: one line, if there is no such task or it cannot be loaded.
    """
    check_task(name)
    if not is_own_task(name):
        return CONTROL[name]
    from dipod_jax.envs.playground import load_task

    task = load_task(name, "jax")
    return Control(float(task.dt), int(task.action_size))


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
