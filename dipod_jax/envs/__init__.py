"""A Playground task, or one of your own, as a batched environment; the physics engine is chosen here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from dipod_jax.envs.batched import BatchedEnv, EnvState, StepResult

__all__ = ["BatchedEnv", "EnvState", "StepResult", "make"]


def __getattr__(name: str) -> Any:
    """The classes of `batched`, imported on first use: `envs.tasks` must be readable without jax."""
    if name in ("BatchedEnv", "EnvState", "StepResult"):
        from dipod_jax.envs import batched

        return getattr(batched, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make(
    task: str,
    backend: str = "auto",
    *,
    episode_length: int = 1000,
    terminate_below: float | None = None,
    num_threads: int = 1,
    num_worlds: int = 2048,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> BatchedEnv:
    """Build a batched environment for one of Playground's DM-Control tasks, or for a task of your own.

    Args:
        task: one of `dipod_jax.envs.tasks.TASKS`, e.g. "BallInCup", or "my_module:make_env", a function of your own
            that returns an `MjxEnv` (see `dipod_jax.envs.own`).
        backend: "native" steps MuJoCo's C engine on CPU threads from inside the compiled program; "mjx" is MuJoCo XLA
            (`impl="jax"`, any device); "warp" is MuJoCo Warp (`impl="warp"`, CUDA). "auto" is native where JAX's
            default device is a CPU, else mjx.
        episode_length: control steps after which an episode is truncated, >= 1.
        terminate_below: a reward under which an episode is terminated; None: never.
        num_threads: threads of one native simulation batch, >= 1; results do not depend on it.
        num_worlds: the largest number of environments, over all seeds vmapped together, that step at once on one
            device, >= 1. It sizes Warp's contact buffers (for a task of your own, you size them).
        mesh, axis: devices over which the environments are spread (see `BatchedEnv`); results do not depend on them.

    Returns:
        A `BatchedEnv`; the number of environments is chosen by its `reset`.

    Raises:
        ValueError: unknown task or backend, or (TaskError) a task of your own that cannot be run; always one line.
    """
    import jax

    from dipod_jax.envs.batched import BatchedEnv
    from dipod_jax.envs.own import failing_in_one_line
    from dipod_jax.envs.tasks import check_found

    check_found(task)
    if episode_length < 1:
        raise ValueError(f"episode_length {episode_length} is not allowed: at least 1")
    if backend == "auto":
        backend = "native" if jax.default_backend() == "cpu" else "mjx"
    if backend not in ("native", "mjx", "warp"):
        raise ValueError(f"backend {backend!r} is not allowed: auto, native, mjx or warp")
    with failing_in_one_line(task):
        loaded = _load(task, backend, num_threads, num_worlds)
        return BatchedEnv(loaded, episode_length, mesh, axis, terminate_below=terminate_below)


def _load(name: str, backend: str, num_threads: int, num_worlds: int) -> Any:
    """One environment of the task on this physics engine, whose modules are imported here."""
    from dipod_jax.envs.own import check_implementation, check_own_task
    from dipod_jax.envs.playground import load_task
    from dipod_jax.envs.tasks import is_own_task

    impl = "warp" if backend == "warp" else "jax"
    task = load_task(name, impl, num_worlds)
    if is_own_task(name) and backend != "native":
        check_implementation(name, task, impl)
    if backend == "native":
        from dipod_jax.envs.native import NativeTask

        task = NativeTask(task, num_threads=num_threads)
    elif backend == "warp":
        from dipod_jax.envs.warp import WarpTask

        task = WarpTask(task)
    if is_own_task(name):
        check_own_task(name, task)
    return task
