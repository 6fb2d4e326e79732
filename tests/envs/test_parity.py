"""Native physics against MJX: 64 environments x 50 random steps; on BallInCup as many from where they score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mujoco_playground._src import mjx_env

from dipod_jax.envs.native import NativeTask
from dipod_jax.envs.playground import load_task
from dipod_jax.envs.simulator import STATE_FIELDS

ENVS, STEPS = 64, 50
PAPER_TASKS = ("BallInCup", "FingerSpin", "FingerTurnEasy", "FingerTurnHard")
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def states_in_the_cup(state):
    """The same batch with the ball 0.25 to 0.35 above its hanging point: it lies in the cup or falls out of it."""
    rng = np.random.default_rng(0)
    qpos = np.zeros((ENVS, 4), np.float32)
    qpos[:, 2], qpos[:, 3] = rng.uniform(-0.05, 0.05, ENVS), rng.uniform(0.25, 0.35, ENVS)
    return state.replace(data=jax.vmap(lambda data, q: data.replace(qpos=q))(state.data, jnp.asarray(qpos)))


def as_mjx(task, state):
    """One native state as one of MJX, without its `forward`, which takes 20 s to compile."""
    config = task._config
    data = mjx_env.make_data(task.mj_model, impl="jax", naconmax=config.naconmax, njmax=config.njmax)
    return state.replace(data=data.replace(**{name: getattr(state.data, name) for name in STATE_FIELDS}))


def run(task, state, actions, options=None):
    """Observations (T, B, O) and rewards (T, B)."""

    def step(state, action):
        state = jax.vmap(task.step)(state, action)
        return state, (state.obs, state.reward)

    roll = jax.jit(lambda state, actions: jax.lax.scan(step, state, actions)[1])
    return map(np.asarray, roll.lower(state, actions).compile(options)(state, actions))


@pytest.mark.parametrize(
    "task", [task if task == "BallInCup" else pytest.param(task, marks=pytest.mark.slow) for task in PAPER_TASKS]
)
def test_native_physics_gives_the_rewards_and_observations_of_mjx(task):
    native, mjx = NativeTask(load_task(task, impl="jax")), load_task(task, impl="jax")
    start = jax.jit(jax.vmap(native.reset))(jax.random.split(jax.random.key(0), ENVS))
    if task == "BallInCup":
        start = jax.tree.map(lambda *x: jnp.concatenate(x), start, states_in_the_cup(start))
    num_envs = start.reward.shape[0]
    actions = jax.random.uniform(jax.random.key(1), (STEPS, num_envs, native.action_size), minval=-1.0)

    obs, reward = run(native, start, actions)
    mjx_start = jax.jit(jax.vmap(lambda state: as_mjx(mjx, state)))(start)
    mjx_obs, mjx_reward = run(mjx, mjx_start, actions, QUICK)

    plain = slice(0, ENVS)
    difference = np.abs(obs - mjx_obs)[:, plain]
    assert np.median(difference) < 1e-5
    if task == "FingerSpin":  # after a contact the two engines' rounding grows: chaos, not error
        assert (reward == mjx_reward).mean() > 0.995
    else:
        np.testing.assert_allclose(reward[:, plain], mjx_reward[:, plain], atol=1e-6)
    if task == "BallInCup":
        scoring = reward[:, ENVS:], mjx_reward[:, ENVS:]
        assert 0.1 < scoring[1].mean() < 0.9
        # contacts from the first step on: the same rewards but where the ball stands on the cup's edge
        assert (scoring[0] == scoring[1]).mean() > 0.99
        np.testing.assert_array_equal(scoring[0][:5], scoring[1][:5])
