"""Loading a Playground task, quietly and with its physics implementation named."""

from __future__ import annotations

from typing import Any

from dipod_jax.envs.own import load_own_task
from dipod_jax.envs.tasks import is_own_task

# The suite caps MuJoCo's solver at 1 or 2 Newton iterations (BallInCup, the fingers), which does not converge where
# bodies overlap. On FingerSpin, 256 random starts, one control step: native physics under the cap is more than 1e-3
# from its own solution of 100 iterations in 10 worlds, by up to 7.6 rad/s; Warp, whose two iterations are not MuJoCo's
# two, in 14. With 4 iterations and the cap's 8 of the line search Warp is within 2e-4 of the solution in all worlds
# through 20 steps (the same on FingerTurnHard; BallInCup 1e-5); with 2 and 50 it is where it was with 2 and 8. So on
# Warp 4 is the least; a world that has converged earlier is not iterated further.
WARP_MIN_ITERATIONS, WARP_MIN_LINE_SEARCH_ITERATIONS = 4, 8

# For how many worlds at once the suite's contact buffers (naconmax) are sized: that of Playground's own training.
SUITE_WORLDS = 2048


def load_task(task: str, impl: str, num_worlds: int = SUITE_WORLDS) -> Any:
    """Return Playground's environment `task`, or that of `module:factory`, with `impl` "jax" or "warp".

    `num_worlds` is the number of worlds that may step at once on one device: when its buffers are full, Warp drops
    contacts and prints a warning. Importing Playground takes seconds and starts Warp; both happen here.
    """
    import warp

    warp.config.log_level = warp.LOG_ERROR
    if is_own_task(task):
        env = load_own_task(task, impl)
        least = (1, 1)
    else:
        from mujoco_playground import dm_control_suite

        buffer = int(dm_control_suite.get_default_config(task)["naconmax"])  # pyright: ignore[reportArgumentType]
        overrides = {"impl": impl, "naconmax": -(-buffer * max(num_worlds, SUITE_WORLDS) // SUITE_WORLDS)}
        env = dm_control_suite.load(task, config_overrides=overrides)
        least = (WARP_MIN_ITERATIONS, WARP_MIN_LINE_SEARCH_ITERATIONS)
    if impl == "warp" and env.mjx_model.impl.value == "warp":
        env._mjx_model = _for_warp(env.mjx_model, *least)  # where every Playground task keeps it
    return env


def _for_warp(model: Any, iterations: int, line_search_iterations: int) -> Any:
    """The model with at least this many iterations, without a message at every step that reaches the limit."""
    from mujoco.mjx.third_party.mujoco_warp import OverflowType

    option = model.opt
    printed = option._impl.warn_overflow & ~(OverflowType.ITERATIONS | OverflowType.LS_ITERATIONS)
    option = option.replace(
        iterations=max(option.iterations, iterations),
        ls_iterations=max(option.ls_iterations, line_search_iterations),
        _impl=option._impl.replace(warn_overflow=int(printed)),
    )
    return model.replace(opt=option)
