"""Native physics against raw `mujoco.rollout`: same model, start states, controls and threads, in turns.

    python -m benchmarks.physics

- `seam`: the physics primitive alone in a jitted scan, one shard a device, as training runs it. What is comparable.
- `seam, 1 device`: the same on one device whose simulator has as many threads as there are cores.
- `env step`: the whole batched step with the task's observation and reward, resets and bookkeeping; both ways too.
- `mjx env step` (and `warp` on a GPU): the same step on another backend, for comparison; compiling it is slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks._command import Options, require_each, require_tasks, run
from dipod_jax.checks import require

TARGETS = {"BallInCup": 0.9, "FingerSpin": 0.9, "CheetahRun": 0.8}
# Env steps of one timed call: about half a second of raw physics on two cores.
STEPS_PER_CALL = {"BallInCup": 8192, "FingerSpin": 16384, "CheetahRun": 65536}


@dataclass(frozen=True)
class PhysicsOptions(Options):
    """Env steps/s of the physics backends against raw mujoco.rollout."""

    tasks: tuple[str, ...] = ("BallInCup", "FingerSpin", "CheetahRun")
    """tasks to step, each one of Playground's DM-Control tasks"""
    num_envs: tuple[int, ...] = (512, 2048)
    """batch sizes, each >= 1 and divisible by the number of devices"""
    steps_per_call: int | None = None
    """env steps of one timed call, >= 1; none: about half a second's worth"""
    mjx_num_envs: int = 512
    """batch size of the comparison with mjx on the first task, >= 0; 0 leaves it out"""

    def __post_init__(self):
        super().__post_init__()
        require_tasks("tasks", self.tasks)
        require_each(lambda n: n >= 1, "num-envs", self.num_envs, "numbers >= 1")
        require(self.mjx_num_envs >= 0, "mjx-num-envs", self.mjx_num_envs, "at least 0")
        allowed = self.steps_per_call is None or self.steps_per_call >= 1
        require(allowed, "steps-per-call", self.steps_per_call, "none, or at least 1")


def measure(options: PhysicsOptions) -> list:
    """All rows."""
    from benchmarks._setup import set_up

    chosen, rows = set_up(), []
    for task in options.tasks:
        for num_envs in options.num_envs:
            if chosen == "native":
                rows += _native(options, task, num_envs)
            else:
                rows += _accelerated(options, task, chosen, num_envs)
    if options.mjx_num_envs:
        rows += _accelerated(options, options.tasks[0], "mjx", options.mjx_num_envs)
    return rows


def _steps(options: PhysicsOptions, task: str, num_envs: int) -> int:
    from benchmarks._setup import horizon

    total = options.steps_per_call or STEPS_PER_CALL.get(task, 8192)
    return horizon(num_envs, total, least=1 if options.steps_per_call else 8)


def _native(options: PhysicsOptions, task: str, num_envs: int) -> list:
    """Raw, seam and env step; sharded, and on one device with a thread a core."""
    import jax
    import numpy as np
    from jax.sharding import PartitionSpec

    from benchmarks import _setup
    from benchmarks._report import compare
    from benchmarks._timing import interleave
    from dipod_jax import envs

    steps, cores = _steps(options, task, num_envs), _setup.available_cores()
    split, single = _setup.data_mesh(), _setup.data_mesh(1)
    variants: dict[str, Any] = {}
    env = envs.make(task, "native")
    state = _setup.warmed_up_state(env, split, num_envs)
    raw = _setup.raw_rollout(env, state.physics.data, steps)
    actions = _setup.random_actions(jax.random.key(7), steps, num_envs, env.action_size)
    variants[_setup.RAW] = raw.variant
    for label, mesh, threads in (("", split, 1), (", 1 device", single, cores)):
        env = envs.make(task, "native", num_threads=threads)
        # A state's tree belongs to the environment that made it: the same leaves, in this environment's tree.
        tree = jax.tree.structure(jax.eval_shape(lambda env=env: env.reset(jax.random.key(0), num_envs)))
        local_state = _setup.place(jax.tree.unflatten(tree, jax.tree.leaves(state)), mesh, PartitionSpec("data"))
        local_actions = _setup.place(actions, mesh, PartitionSpec(None, "data"))
        for name, program, start in (
            ("seam", seam_program(env, mesh), local_state.physics.data),
            ("env step", env_program(env, mesh), local_state),
        ):
            variants[name + label] = _setup.blocking(program, start, local_actions), float(steps * num_envs)
    samples = interleave(variants, options.repeats)
    seam_qpos = np.asarray(variants["seam"][0]().qpos)
    difference = float(np.median(np.abs(seam_qpos - raw.last_qpos)))
    notes = {"seam": f"median |qpos - raw| {difference:.0e} after {steps} steps"}
    targets = {"seam": TARGETS[task]} if task in TARGETS else {}
    return compare(f"{task} {num_envs} envs", samples, _setup.RAW, targets=targets, notes=notes)


def seam_program(env: Any, mesh: Any) -> Any:
    """(data, actions (T, B, nu)) -> data: the physics alone."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    task, num_substeps = env._task, _setup.substeps(env)

    def advance(data: Any, action: jax.Array) -> tuple[Any, None]:
        one = lambda d, a: task._advance(d.replace(ctrl=a), num_substeps)
        return jax.vmap(one)(data, action), None

    program = lambda data, actions: jax.lax.scan(advance, data, actions)[0]
    specs = PartitionSpec("data"), PartitionSpec(None, "data")
    return _setup.sharded(program, mesh, specs, PartitionSpec("data"))


def env_program(env: Any, mesh: Any) -> Any:
    """(state, actions (T, B, nu)) -> (state, rewards (B,)): the whole batched step."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        state, result = env.step(state, action)
        return state, result.reward

    def program(state: Any, actions: jax.Array) -> tuple[Any, jax.Array]:
        state, reward = jax.lax.scan(step, state, actions)
        return state, reward.sum(0)

    specs = PartitionSpec("data"), PartitionSpec(None, "data")
    return _setup.sharded(program, mesh, specs, PartitionSpec("data"))


def _accelerated(options: PhysicsOptions, task: str, backend: Any, num_envs: int) -> list:
    """The env step of mjx or warp against raw MuJoCo on this machine's cores."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup
    from benchmarks._report import compare
    from benchmarks._timing import interleave
    from dipod_jax import envs

    steps, mesh = _steps(options, task, num_envs), _setup.data_mesh()
    env = envs.make(task, backend)
    state = _setup.warmed_up_state(env, mesh, num_envs, num_steps=8)
    raw = _setup.raw_rollout(env, state.physics.data, steps)
    actions = _setup.random_actions(jax.random.key(7), steps, num_envs, env.action_size)
    actions = _setup.place(actions, mesh, PartitionSpec(None, "data"))
    step = _setup.blocking(env_program(env, mesh), state, actions), float(steps * num_envs)
    samples = interleave({_setup.RAW: raw.variant, f"{backend} env step": step}, options.repeats)
    on_cpu = jax.default_backend() == "cpu"
    return compare(f"{task} {num_envs} envs, {backend}", samples, _setup.RAW, cpu_time=on_cpu)


if __name__ == "__main__":
    run("physics", PhysicsOptions, measure)
