"""A Playground task as one batched environment, with the physics engine chosen in one place."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from dipod_jax.config import TASKS, Backend
from dipod_jax.envs.batched import BatchedEnv, EnvState, StepResult

__all__ = ["Backend", "BatchedEnv", "EnvState", "StepResult", "make"]


def make(
    task: str,
    backend: Backend = "native",
    *,
    episode_length: int = 1000,
    num_threads: int = 1,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> BatchedEnv:
    """Build a batched environment for one of Playground's DM-Control tasks.

    Args:
        task: one of `dipod_jax.config.TASKS`, e.g. "BallInCup".
        backend: "native" steps MuJoCo's C engine on CPU threads from inside the compiled program; "mjx" is MuJoCo XLA
            (`impl="jax"`, any device); "warp" is MuJoCo Warp (`impl="warp"`, CUDA).
        episode_length: control steps after which an episode is truncated, >= 1.
        num_threads: threads of one native simulation batch, >= 1; the results do not depend on it.
        mesh, axis: devices over which the environments are spread, see `BatchedEnv`; the results do not depend on them.

    Returns:
        A `BatchedEnv`; the number of environments is chosen by its `reset`.

    Raises:
        ValueError: unknown task or backend, or a task that needs assets from a network.
    """
    if task not in TASKS:
        raise ValueError(
            f"task {task!r} is not one of Playground's DM-Control tasks (the others clone assets with git at load). "
            f"Allowed: {', '.join(TASKS)}"
        )
    if episode_length < 1:
        raise ValueError(f"episode_length {episode_length} is not allowed: at least 1")
    if backend not in ("native", "mjx", "warp"):
        raise ValueError(f"backend {backend!r} is not allowed here: native, mjx or warp")
    return BatchedEnv(_load(task, backend, num_threads), episode_length, mesh, axis)


def _load(task: str, backend: Backend, num_threads: int) -> Any:
    """One environment of the task on this physics; its modules are imported here, at first use."""
    from dipod_jax.envs.playground import load_task

    if backend == "mjx":
        return load_task(task, impl="jax")
    if backend == "warp":
        from dipod_jax.envs.warp import WarpTask

        return WarpTask(load_task(task, impl="warp"))
    from dipod_jax.envs.native import NativeTask

    return NativeTask(load_task(task, impl="jax"), num_threads=num_threads)
