"""A task of your own: `module:factory`, which returns any Playground `MjxEnv`."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from dipod_jax.envs.tasks import check_found, is_own_task, module_files
from dipod_jax.runs.errors import TaskError, reason_of


@contextmanager
def failing_in_one_line(name: str) -> Iterator[None]:
    """Raise TaskError for whatever the code of a task of your own raises: one line with the place in its module."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        if not is_own_task(name):
            raise
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise TaskError(f"--task {name} fails: {reason}{_place(name, error)}") from error


def _place(name: str, error: Exception) -> str:
    """` (/home/me/my_tasks.py, line 12)`: where in the task's module, or its package; nothing if raised elsewhere."""
    files = module_files(name.partition(":")[0])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def load_own_task(name: str, impl: str) -> Any:
    """Call the factory of `module:factory`.

    It is called with `impl="jax"` or `"warp"` if it has a parameter of that name, else with `config_overrides={"impl":
    ...}` if it has that one (as Playground's own classes do), else without arguments.

    Raises:
        TaskError: one line, if there is no such module or function, or it returns something else.
    """
    check_found(name)
    module, _, attribute = name.partition(":")
    factory = getattr(importlib.import_module(module), attribute, None)
    if not callable(factory):
        what = "is not a function" if factory is not None else "is not there"
        raise TaskError(f"--task {name} is not allowed: {attribute} {what}; write a function that returns an MjxEnv")
    from mujoco_playground import MjxEnv

    task = factory(**_options(factory, impl))
    if not isinstance(task, MjxEnv):
        raise TaskError(
            f"--task {name} is not allowed: {attribute} returned {type(task).__name__}; return an instance of "
            "mujoco_playground.MjxEnv"
        )
    if int(task.action_size) < 1:
        raise TaskError(f"--task {name} is not allowed: its action_size is {task.action_size}; a policy has at least 1")
    return task


def check_implementation(name: str, task: Any, impl: str) -> None:
    """Raise TaskError if the task built its model for a different physics engine than the requested backend."""
    built = task.mjx_model.impl.value
    if built != impl:
        raise TaskError(
            f"--task {name} built its model for {built} and not for {impl}: give the factory a parameter impl and pass "
            "it to mjx.put_model and mjx_env.make_data"
        )


def check_own_task(name: str, task: Any) -> None:
    """Trace reset and one step, and raise TaskError, one line, unless its parts are as a run needs them."""
    start = jax.eval_shape(task.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((int(task.action_size),), "float32")
    after = jax.eval_shape(task.step, start, action)
    if not hasattr(start.obs, "shape") or len(start.obs.shape) != 1:
        raise TaskError(f"--task {name} is not allowed: its observation must be one vector; concatenate its parts")
    if start.obs.dtype != "float32" or start.obs.size == 0:
        given = f"it is {start.obs.dtype}{list(start.obs.shape)}"
        raise TaskError(f"--task {name} is not allowed: its observation must be one float32 or more; {given}")
    for part in ("reward", "done"):
        if shape := getattr(start, part).shape:
            raise TaskError(f"--task {name} is not allowed: its {part} must be one number; it has shape {list(shape)}")
    leaves = lambda state: {
        jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }
    before, after = leaves(start), leaves(after)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            raise TaskError(
                f"--task {name} is not allowed: step must return what reset returns, but state{path} is "
                f"{before.get(path, 'missing')} after reset and {after.get(path, 'missing')} after step"
            )


def _options(factory: Callable, impl: str) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters
    if "impl" in parameters:
        return {"impl": impl}
    return {"config_overrides": {"impl": impl}} if "config_overrides" in parameters else {}
