"""A Playground task as one batched environment, with the physics engine chosen in one place."""

from __future__ import annotations

from dipod_jax.envs.batched import BatchedEnv, EnvState, StepResult
from dipod_jax.envs.tasks import TASKS

__all__ = ["BatchedEnv", "EnvState", "StepResult", "make"]


def make(
    task: str,
    backend: str = "native",
    *,
    episode_length: int = 1000,
    num_threads: int = 1,
    mesh=None,
) -> BatchedEnv:
    """Build a batched environment for one of Playground's DM-Control tasks.

    Args:
        task: one of `dipod_jax.config.TASKS`, e.g. "BallInCup".
        backend: "native" steps MuJoCo's C engine on CPU threads from inside the compiled program; "mjx" is MuJoCo XLA
            (`impl="jax"`, any device); "warp" is MuJoCo Warp (`impl="warp"`, CUDA).
        episode_length: control steps after which an episode is truncated, >= 1.
        num_threads: threads of one native simulation batch, >= 1; the results do not depend on it.

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
    if backend in ("mjx", "warp"):
        from dipod_jax.envs.playground import load_task

        return BatchedEnv(load_task(task, impl="jax" if backend == "mjx" else "warp"), episode_length)
    if backend == "native":
        from dipod_jax.envs.native import NativeTask
        from dipod_jax.envs.playground import load_task

        return BatchedEnv(NativeTask(load_task(task, impl="jax"), num_threads=num_threads), episode_length)
    raise ValueError(f"backend {backend!r} is not allowed here: native, mjx or warp")
