"""The same 64 episodes on native physics, MJX and Warp: 60 steps through two auto-resets, on the paper's four tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mujoco_playground._src import mjx_env
from numpy.testing import assert_array_equal

from dipod_jax.envs import BatchedEnv
from dipod_jax.envs.native import NativeTask
from dipod_jax.envs.playground import load_task
from dipod_jax.envs.simulator import STATE_FIELDS
from dipod_jax.envs.warp import WarpTask

ENVS, STARTS, STEPS, LIMIT = 64, 16, 60, 20
PAPER_TASKS = ("BallInCup", "FingerSpin", "FingerTurnEasy", "FingerTurnHard")
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# Under the suite's cap of 1 or 2 solver iterations MuJoCo and MJX agree, as they iterate alike; Warp iterates otherwise
# and is given enough to converge, so it is held against MuJoCo with enough.
ENOUGH_ITERATIONS, ENOUGH_LINE_SEARCH_ITERATIONS = 100, 50

pytestmark = pytest.mark.usefixtures("quick_warp")


def native_env(task, converged):
    loaded = load_task(task, impl="jax")
    if converged:
        option = loaded.mj_model.opt
        option.iterations, option.ls_iterations = ENOUGH_ITERATIONS, ENOUGH_LINE_SEARCH_ITERATIONS
    return BatchedEnv(NativeTask(loaded), LIMIT)


def start_of(env, task):
    """A batch of which, on BallInCup, every second ball and start lies in the cup or falls out of it: these score."""
    state = jax.jit(lambda key: env.reset(key, ENVS, num_starts=STARTS))(jax.random.key(0))
    if task != "BallInCup":
        return state
    return state._replace(physics=balls_in_the_cup(state.physics), starts=balls_in_the_cup(state.starts))


def balls_in_the_cup(physics):
    rng, num = np.random.default_rng(0), physics.reward.shape[0]
    qpos = np.array(physics.data.qpos)
    qpos[::2, 2], qpos[::2, 3] = rng.uniform(-0.05, 0.05, num // 2), rng.uniform(0.25, 0.35, num // 2)
    return physics.replace(data=jax.vmap(lambda data, q: data.replace(qpos=q))(physics.data, jnp.asarray(qpos)))


def on_other_physics(task, impl, state):
    """An environment on that physics and the same state there, without a `forward`, which MJX compiles for 20 s."""
    loaded = load_task(task, impl)
    other = WarpTask(loaded) if impl == "warp" else loaded
    config = loaded._config

    def convert(physics):
        data = mjx_env.make_data(loaded.mj_model, impl=impl, naconmax=config.naconmax, njmax=config.njmax)
        physics = physics.replace(data=data.replace(**{name: getattr(physics.data, name) for name in STATE_FIELDS}))
        return other._without_buffers(physics) if impl == "warp" else physics

    converted = jax.jit(jax.vmap(convert))
    return BatchedEnv(other, LIMIT), state._replace(physics=converted(state.physics), starts=converted(state.starts))


def run(env, state, options=None):
    actions = jax.random.uniform(jax.random.key(1), (STEPS, ENVS, env.action_size), minval=-1.0)
    roll = jax.jit(lambda state, actions: jax.lax.scan(env.step, state, actions)[1])
    return jax.tree.map(np.asarray, roll.lower(state, actions).compile(options)(state, actions))


CASES = [(impl, task) for impl in ("jax", "warp") for task in PAPER_TASKS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("impl", "task"),
    [case if case == ("jax", "BallInCup") else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_other_physics_gives_the_episodes_of_native_physics(impl, task):
    env = native_env(task, converged=impl == "warp")
    state = start_of(env, task)
    native, other = run(env, state), run(*on_other_physics(task, impl, state), QUICK)

    difference = np.abs(native.next_obs - other.next_obs).max(-1)  # (T, B)
    for ends in ("truncated", "terminated", "episode_length"):
        assert_array_equal(getattr(native, ends), getattr(other, ends))
    assert_array_equal(np.flatnonzero(native.truncated.all(1)), [LIMIT - 1, 2 * LIMIT - 1, STEPS - 1])
    equal_rewards = (native.reward == other.reward).mean()
    if impl == "warp":
        # both solvers converge: what is left is float32, here at most 6e-4, on the Turn tasks 3e-3
        assert difference.max() < 0.01 and equal_rewards > 0.999
    else:
        # Neither converges where bodies overlap: on the cup's edge and in deep contact rounding grows, in 5 to 12 % of
        # the steps to more than 1e-3. That is chaos and no error; elsewhere, 5e-7.
        assert np.median(difference) < 1e-5 and (difference < 1e-3).mean() > 0.8 and equal_rewards > 0.995
    if task == "BallInCup":
        assert 0.1 < native.reward.mean() < 0.9  # equal rewards would prove little where nothing is scored
