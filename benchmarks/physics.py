"""Native physics against raw `mujoco.rollout`: same model, start states, controls and threads, in turns.

    python -m benchmarks.physics

- `seam`: the physics primitive alone in a jitted scan, spread over devices as training runs it. What is comparable.
- `seam, 1 device`: the same on one device whose simulator has as many threads as there are cores.
- `env step`: the whole batched step with the task's observation and reward, resets and bookkeeping.
- `mjx env step` (and `warp` on a GPU): the same step on another backend, for comparison; compiling it is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks import _setup
from benchmarks._command import Options, check_each, run
from benchmarks._report import Row, compare
from benchmarks._timing import interleave
from dipod_jax import envs
from dipod_jax.checks import Checked, check_choice, check_number
from dipod_jax.envs.tasks import TASKS
from dipod_jax.machine import available_cores

TARGETS = {"BallInCup": 0.9, "FingerSpin": 0.9, "CheetahRun": 0.8}
# Env steps of one timed call: about half a second of raw physics on two cores.
STEPS_PER_CALL = {"BallInCup": 8192, "FingerSpin": 16384, "CheetahRun": 65536}


@dataclass(frozen=True)
class PhysicsOptions(Options):
    """Env steps/s of the physics backends against raw mujoco.rollout."""

    tasks: tuple[str, ...] = ("BallInCup", "FingerSpin", "CheetahRun")
    """tasks to step, each one of Playground's DM-Control tasks"""
    num_envs: tuple[int, ...] = (512, 2048)
    """batch sizes, each >= 1; one is spread over as many devices as share it evenly"""
    steps_per_call: int | None = None
    """env steps of one timed call, >= 1; none: about half a second's worth"""
    mjx_num_envs: int = 512
    """batch size of the comparison with mjx on the first task, >= 0; 0 leaves it out"""

    def __post_init__(self):
        super().__post_init__()
        check_each(check_choice, "tasks", self.tasks, TASKS)
        check_each(check_number, "num-envs", self.num_envs, 1)
        Checked(self).number("steps_per_call", low=1)
        Checked(self).number("mjx_num_envs")


def measure(options: PhysicsOptions) -> list[Row]:
    """All rows."""
    backend = _setup.set_up()
    rows = [row for task in options.tasks for n in options.num_envs for row in _rows(options, task, n, backend)]
    return rows + (_rows(options, options.tasks[0], options.mjx_num_envs, "mjx") if options.mjx_num_envs else [])


def _rows(options: PhysicsOptions, task: str, num_envs: int, backend: str) -> list[Row]:
    """Every variant of one task and batch size, from the same states under the same controls."""
    mesh, what = _setup.data_mesh(num_envs), f"{task} {num_envs} envs"
    steps = options.steps_per_call or max(8 * num_envs, STEPS_PER_CALL.get(task, 8192))
    env = envs.make(task, backend, mesh=mesh)
    state = _setup.warmed_up_state(env, num_envs)
    actions = _setup.random_actions(jax.random.key(7), max(1, steps // num_envs), num_envs, env.action_size)
    raw = _setup.RawRollout(env, state.physics.data, actions)
    step = _setup.blocking(env_program(env), state, _setup.place(actions, mesh, None, _setup.DATA))
    if backend != "native":
        samples = interleave({_setup.RAW: raw.variant, f"{backend} env step": (step, raw.work)}, options.repeats)
        return compare(f"{what}, {backend}", samples, _setup.RAW)
    seam = _setup.blocking(seam_program(env), state.physics.data, _setup.place(actions, mesh, None, _setup.DATA))
    single = envs.make(task, backend, num_threads=available_cores())
    data = _setup.warmed_up_state(single, num_envs).physics.data
    calls = {"seam": seam, "env step": step, "seam, 1 device": _setup.blocking(seam_program(single), data, actions)}
    variants = {_setup.RAW: raw.variant} | {name: (call, raw.work) for name, call in calls.items()}
    samples = interleave(variants, options.repeats)
    difference = float(np.median(np.abs(np.asarray(seam().qpos) - raw.last_qpos)))
    notes = {"seam": f"median |qpos - raw| {difference:.0e} after {len(actions)} steps"}
    targets = {"seam": TARGETS[task]} if task in TARGETS else {}
    return compare(what, samples, _setup.RAW, targets=targets, notes=notes)


def seam_program(env: envs.BatchedEnv) -> Callable:
    """(data, actions (T, B, nu)) -> data: the physics alone, as `BatchedEnv.step` spreads it over devices."""
    num_substeps = _setup.substeps(env)
    one = lambda data, action: env._task._advance(data.replace(ctrl=action), num_substeps)
    advance = env._per_env(one, env._axis)
    return jax.jit(lambda data, actions: jax.lax.scan(lambda d, a: (advance(d, a), None), data, actions)[0])


def env_program(env: envs.BatchedEnv) -> Callable:
    """(state, actions (T, B, nu)) -> (state, rewards (B,)): the whole batched step."""

    def step(state: envs.EnvState, action: jax.Array) -> tuple[envs.EnvState, jax.Array]:
        state, result = env.step(state, action)
        return state, result.reward

    @jax.jit
    def program(state: envs.EnvState, actions: jax.Array) -> tuple[envs.EnvState, jax.Array]:
        state, reward = jax.lax.scan(step, state, actions)
        return state, reward.sum(0)

    return program


if __name__ == "__main__":
    run("physics", PhysicsOptions, measure)
