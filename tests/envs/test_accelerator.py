"""What only an accelerator can show: MJX and Warp on the device itself, whole runs of each, seeds vmapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax import envs

ENVS, STEPS, LIMIT = 64, 24, 10
BACKENDS = ["mjx", "warp"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator"),
]


def roll(env, num_envs=ENVS):
    def run(seed):
        reset_key, action_key = jax.random.split(jax.random.key(seed))
        actions = jax.random.uniform(action_key, (STEPS, num_envs, env.action_size), minval=-1.0)
        return jax.lax.scan(env.step, env.reset(reset_key, num_envs), actions)

    return run


@pytest.mark.parametrize("backend", BACKENDS)
def test_episodes_are_finite_end_at_the_limit_and_start_again(backend):
    state, result = jax.jit(roll(envs.make("FingerSpin", backend, episode_length=LIMIT)))(0)
    assert_array_equal(np.flatnonzero(result.truncated.all(1)), [LIMIT - 1, 2 * LIMIT - 1])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result)) and state.num_failures.sum() == 0
    assert np.abs(np.diff(result.next_obs, axis=0)).max() > 0.1


def test_warp_and_mjx_agree_on_a_task_without_contacts():
    results = [jax.jit(roll(envs.make("PendulumSwingup", b, episode_length=LIMIT)))(0)[1] for b in BACKENDS]
    assert_allclose(results[0].next_obs, results[1].next_obs, atol=1e-3)
    assert_allclose(results[0].reward, results[1].reward, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_that_are_vmapped_are_as_each_is_alone(backend):
    env = envs.make("PendulumSwingup", backend, episode_length=LIMIT)
    together = jax.jit(jax.vmap(roll(env)))(jnp.arange(2))[1]
    alone = jax.jit(roll(env))(1)[1]
    assert_allclose(together.next_obs[1], alone.next_obs, atol=1e-3)


def test_no_contact_of_eight_thousand_worlds_is_dropped(capfd):
    env = envs.make("BallInCup", "warp", num_worlds=8192)
    state, result = jax.jit(roll(env, 8192))(0)
    jax.block_until_ready(state)
    printed = capfd.readouterr()
    assert "overflow" not in (printed.out + printed.err).lower()
    assert np.isfinite(result.next_obs).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_iterations_of_two_seeds_train_on_the_device(backend):
    from dataclasses import replace

    from dipod_jax.presets import smoke
    from dipod_jax.training.programs import make_programs

    programs = make_programs(replace(smoke("BallInCup", "fpo"), backend=backend), (0, 1))
    state = programs.init()
    for _ in range(2):
        state, metrics = programs.iterate(state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learner.params))
    assert metrics["skipped_updates"].tolist() == [0.0, 0.0]
    assert {d.platform for d in state.actor.base_noise.devices()} == {jax.default_backend()}
