"""Warp on its CPU device: a state of which every leaf belongs to one world, and steps through auto-resets."""

import functools
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax import envs
from dipod_jax.envs.playground import load_task
from dipod_jax.envs.warp import WarpTask

ENVS, STARTS, LIMIT = 3, 2, 2
pytestmark = pytest.mark.usefixtures("quick_warp")


def test_a_batch_steps_through_an_auto_reset_and_every_leaf_has_a_world_axis():
    env = envs.make("BallInCup", "warp", episode_length=LIMIT)

    def run(key):
        state = env.reset(key, ENVS, num_starts=STARTS)
        return state, jax.lax.scan(env.step, state, jnp.full((2 * LIMIT, ENVS, 2), 0.5))

    first, (last, result) = jax.jit(run)(jax.random.key(0))
    assert {x.shape[0] for x in jax.tree.leaves((first.physics, last.physics))} == {ENVS}
    assert {x.shape[0] for x in jax.tree.leaves(last.starts)} == {STARTS}
    assert_array_equal(result.truncated, np.tile([[False], [True]] * 2, (1, ENVS)))
    # BallInCup has one start state, so the second episode is the first again; under gravity and control it moves
    assert_array_equal(result.next_obs[LIMIT:], result.next_obs[:LIMIT])
    assert_array_equal(last.obs, first.obs)
    assert np.abs(np.asarray(result.next_obs[LIMIT - 1] - first.obs)).max() > 0.1
    assert last.num_failures.sum() == 0


def test_warp_is_given_enough_iterations_where_the_suite_caps_them_and_no_fewer_where_it_does_not():
    cup, cheetah = (load_task(task, "warp").mjx_model.opt for task in ("BallInCup", "CheetahRun"))
    assert (cup.iterations, cup.ls_iterations) == (4, 8)  # the suite's are 1 and 4
    assert (cheetah.iterations, cheetah.ls_iterations) == (4, 8)  # the suite's own


@pytest.mark.slow
@pytest.mark.parametrize("task", ["BallInCup", "FingerSpin"])
def test_what_worlds_share_is_scratch_space_of_one_step(task):
    """Without it in the state, Warp gives the bits it gives where each step hands its contacts to the next."""
    whole = load_task(task, "warp")

    def run(task):
        def step(state, action):
            state = jax.vmap(task.step)(state, action)
            return state, (state.obs, state.reward, state.data.qacc_warmstart)

        def roll(keys, actions):
            return jax.lax.scan(step, jax.vmap(task.reset)(keys), actions)[1]

        actions = jax.random.uniform(jax.random.key(1), (20, 8, whole.action_size), minval=-1.0)
        return jax.jit(roll)(jax.random.split(jax.random.key(0), 8), actions)

    jax.tree.map(assert_array_equal, run(WarpTask(whole)), run(whole))


@pytest.mark.slow
def test_seeds_are_vmapped_on_warp_and_each_is_as_it_is_alone():
    env = envs.make("FingerSpin", "warp", episode_length=4)
    actions = jax.random.uniform(jax.random.key(1), (6, ENVS, env.action_size), minval=-1.0)

    def run(seed):
        return jax.lax.scan(env.step, env.reset(jax.random.key(seed), ENVS), actions)[1]

    together = jax.jit(jax.vmap(run))(jnp.arange(2))
    alone = jax.jit(run)
    same = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)  # two programs, each with its own rounding
    for seed in range(2):
        jax.tree.map(same, jax.tree.map(itemgetter(seed), together), alone(seed))


def test_native_and_mjx_keep_the_suites_caps():
    cup = load_task("BallInCup", "jax").mjx_model.opt
    assert (cup.iterations, cup.ls_iterations) == (1, 4)


def test_contact_buffers_grow_with_the_worlds_and_never_shrink():
    sizes = [load_task("BallInCup", "warp", num)._config.naconmax for num in (1, 2048, 2049, 8 * 8192)]
    assert sizes == [10_000, 10_000, 10_005, 320_000]
