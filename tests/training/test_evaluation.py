"""Evaluation: whole episodes, independent of training and of each other, with returns known beforehand."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from probe_tasks import CountingTask, ProbeState, TargetTask
from small import assert_same_bits, copy

from dipod_jax import envs, load_policy
from dipod_jax.envs import BatchedEnv
from dipod_jax.envs.tasks import TASKS
from dipod_jax.presets import make_config
from dipod_jax.training.evaluation import evaluate, record
from dipod_jax.training.loading import restore_policy
from dipod_jax.training.loop import train
from dipod_jax.training.programs import make_programs
from dipod_jax.training.results import SINGLE_START_TASKS
from dipod_jax.training.statistics import RunningStatistics


@pytest.mark.slow
def test_an_evaluation_is_reproducible_and_leaves_training_as_it_was(fpo):
    state = fpo.init()
    silent, _ = fpo.iterate(copy(state))
    first = fpo.evaluate(state.learner, 6)
    second = fpo.evaluate(state.learner, 6)
    assert_same_bits(first, second)
    assert_same_bits(fpo.iterate(state)[0], silent)
    assert first.random_noise.shape == first.zero_noise.shape == (1, 6)


def test_evaluation_episodes_are_independent_of_each_other_and_of_their_number(fpo):
    learner = fpo.init().learner
    many = fpo.evaluate(learner, 10)
    assert_same_bits(fpo.evaluate(learner, 3), jax.tree.map(lambda x: x[:, :3], many))
    assert len(np.unique(many.random_noise)) == 10
    # another iteration draws other noise
    later = fpo.evaluate(learner._replace(iteration=learner.iteration + 1), 10)
    assert not np.isin(later.random_noise, many.random_noise).any()


class ShiftPolicy:
    """a = base noise + atanh(.5): with base noise 0 the best action of `TargetTask`."""

    action_size, noise_shape = 1, (1,)

    def sample(self, params, obs, base_noise):
        return base_noise + jnp.arctanh(0.5), ()

    def squash(self, action):
        return jnp.tanh(action)


def test_evaluation_returns_of_a_known_policy():
    run = lambda key: evaluate(BatchedEnv(TargetTask(), 20), ShiftPolicy(), None, RunningStatistics.zeros(2), key, 400)
    returns = jax.jit(run)(jax.random.key(0))
    assert_allclose(returns.zero_noise, 20.0, rtol=1e-6)
    # E[1 - (tanh(z + atanh .5) - .5)^2] under N(0, 1), by quadrature
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    mean = np.trapezoid(density * (1 - (np.tanh(z + np.arctanh(0.5)) - 0.5) ** 2), z)
    # a reward's deviation is about .6: the standard error over 8000 is .007
    assert_allclose(returns.random_noise.mean() / 20, mean, atol=0.03)


class FullPolicy(ShiftPolicy):
    def sample(self, params, obs, base_noise):
        return jnp.full_like(base_noise, 20.0), ()  # tanh: 1


def test_evaluation_counts_the_first_episode_only():
    run = lambda key: evaluate(BatchedEnv(CountingTask(), 25), FullPolicy(), None, RunningStatistics.zeros(2), key, 4)
    returns = jax.jit(run)(jax.random.key(0))
    assert_array_equal(returns.random_noise, [10.0] * 4)  # starts in (0, 1): past 10, and done, at the tenth step


class SeenTask(CountingTask):
    """`CountingTask` with what a film needs: its position is the sum of actions."""

    def reset(self, key):
        return SeenState(*super().reset(key))

    def step(self, state, action):
        return SeenState(*super().step(state, action))


class SeenState(ProbeState):
    @property
    def data(self):
        nothing = jnp.zeros((*self.obs.shape[:-1], 0, 3))
        return SimpleNamespace(qpos=self.obs[..., 1:], mocap_pos=nothing, mocap_quat=nothing)


def test_a_film_ends_with_its_episode_as_the_evaluation_does():
    run = lambda key: record(BatchedEnv(SeenTask(), 25), FullPolicy(), None, RunningStatistics.zeros(2), key, 4)
    film = jax.jit(run)(jax.random.key(0))
    assert_array_equal(film.reward, [[1.0] * 4] * 10 + [[0.0] * 4] * 15)
    moved = np.minimum(np.arange(25), 9)[:, None, None]
    assert_allclose(film.qpos - film.qpos[0], np.broadcast_to(moved, (25, 4, 1)), atol=1e-5)


@pytest.mark.slow
def test_the_tasks_said_to_start_in_one_state_are_those_that_do():
    starts = {task: np.asarray(envs.make(task, "native").reset(jax.random.key(0), 8).obs) for task in TASKS}
    assert {task for task, obs in starts.items() if (obs == obs[0]).all()} == set(SINGLE_START_TASKS)


@pytest.mark.slow
def test_a_half_trained_policy_returns_the_same_from_the_programs_and_from_its_folder(tmp_path):
    """1,024 episodes of BallInCup by `Programs.evaluate`, and as many by a loop that a user would write."""
    config, _ = make_config("cpu", "BallInCup", "fpo", "native")
    evaluation = replace(config.evaluation, num_episodes=1024, num_episodes_during=256)
    config = replace(config, total_steps=250_000, seed_list=(3,), out=tmp_path / "run", logger="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")
        train(config)
    trained = restore_policy(config.out)

    programs = make_programs(replace(config, evaluation=evaluation), (3,))
    learner = programs.init().learner
    fresh = learner.params["policy"], learner.obs_statistics
    as_fresh = lambda x, to: jax.device_put(x[None], to.sharding)  # on every device
    params, statistics = jax.tree.map(as_fresh, (trained.params, trained.statistics), fresh)
    learner = learner._replace(params=learner.params | {"policy": params}, obs_statistics=statistics)
    ours = programs.evaluate(learner, 1024).random_noise[0]

    env, act = envs.make("BallInCup", "native", episode_length=1000), load_policy(config.out)
    state, step = jax.jit(lambda key: env.reset(key, 1024))(jax.random.key(1)), jax.jit(env.step)
    total, running = np.zeros(1024), np.ones(1024, bool)
    for key in jax.random.split(jax.random.key(2), 1000):
        state, result = step(state, act(state.obs, key))
        total += running * np.asarray(result.reward)
        running &= ~np.asarray(result.terminated | result.truncated)
    assert not running.any()

    error = np.sqrt((ours.var(ddof=1) + total.var(ddof=1)) / 1024)
    assert 50 < total.mean() < 850 and error < 20  # half trained: neither nothing nor everything is caught
    assert abs(ours.mean() - total.mean()) < 3 * error
