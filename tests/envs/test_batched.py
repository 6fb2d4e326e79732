"""Batched environments: episodes, clocks, auto-reset and failures, on a task whose every number is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from probe_tasks import CountingTask

from dipod_jax import envs
from dipod_jax.envs import BatchedEnv

LIMIT, ENVS = 5, 4


@pytest.fixture(scope="module")
def env():
    return BatchedEnv(CountingTask(), LIMIT)


@pytest.fixture(scope="module")
def roll(env):
    """(state, actions (T, B, 1)) -> state after, results (T, B)."""
    return jax.jit(lambda state, actions: jax.lax.scan(env.step, state, actions))


def start(env, seed=0, **options):
    return env.reset(jax.random.key(seed), ENVS, **options)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "native"), ("gpu", "mjx"), ("tpu", "mjx")])
def test_the_backend_that_is_not_named_is_the_devices(device, backend, monkeypatch):
    loaded = []
    monkeypatch.setattr(envs, "_load", lambda task, backend, *rest: loaded.append(backend) or CountingTask())
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    envs.make("BallInCup")
    assert loaded == [backend]


def test_a_backend_must_be_known_and_an_episode_long_enough():
    with pytest.raises(ValueError, match="backend 'cuda' is not allowed: auto, native, mjx or warp"):
        envs.make("BallInCup", "cuda")
    with pytest.raises(ValueError, match="episode_length 0"):
        envs.make("BallInCup", episode_length=0)


def test_episodes_are_truncated_at_the_limit_and_start_again(env, roll):
    actions = jnp.arange(12.0).reshape(12, 1, 1) * jnp.ones((1, ENVS, 1)) / 100
    first = start(env)
    state, result = roll(first, actions)
    at_limit = np.array([4, 9])  # the 5th and the 10th step
    assert_array_equal(np.flatnonzero(result.truncated[:, 0]), at_limit)
    assert not result.terminated.any()
    # steps 0-4 are rewarded 0 + .01 + ... + .04 = .10, steps 5-9 .35
    assert_allclose(result.episode_return[at_limit, 0], [0.10, 0.35], rtol=1e-5)
    assert_array_equal(result.episode_length[:, 0], [0, 0, 0, 0, 5, 0, 0, 0, 0, 5, 0, 0])
    # two steps into the third episode: .10 + .11
    assert_array_equal(state.length, [2] * ENVS)
    assert_allclose(state.episode_return, [0.21] * ENVS, rtol=1e-5)


def test_next_obs_is_the_true_one_and_obs_that_of_the_new_episode(env, roll):
    first = start(env)
    state, result = roll(first, jnp.full((LIMIT, ENVS, 1), 0.5))
    assert_array_equal(result.next_obs[-1, :, 0], [LIMIT] * ENVS)
    assert_allclose(result.next_obs[-1, :, 1], first.obs[:, 1] + 0.5 * LIMIT, rtol=1e-6)
    assert_array_equal(state.obs[:, 0], [0] * ENVS)
    assert np.isin(state.obs[:, 1], first.starts.obs[:, 1]).all()


def test_termination_is_not_truncation(env, roll):
    actions = jnp.full((LIMIT, ENVS, 1), 2.0).at[:, 0].set(2.6)
    _, result = roll(start(env), actions)
    # starts lie in [0, 1]: env 0 passes 10 at step 4 (10.4 + start), the others at step 5, the very step of the limit,
    # where 10 + start > 10 terminates
    assert_array_equal(result.terminated[:, 0], [False, False, False, True, False])
    assert_array_equal(result.terminated[:, 1:].sum(0), [1] * (ENVS - 1))
    assert result.terminated[4, 1:].all() and not result.truncated[:, 1:].any()
    assert_array_equal(result.episode_length[3, 0], 4)
    assert_allclose(result.episode_return[4, 1:], 10.0)


def test_a_reward_under_the_least_terminates_an_episode_but_not_one_of_another_length():
    env = BatchedEnv(CountingTask(), LIMIT, terminate_below=-0.5)
    actions = jnp.zeros((LIMIT, ENVS, 1)).at[2, 0].set(-0.75).at[2, 1].set(-0.5).at[4, 2].set(-0.75)
    _, result = jax.lax.scan(env.step, start(env), actions)
    # env 1 gets exactly the least; env 2 falls under it in the very step of the limit
    assert_array_equal(result.terminated.T.nonzero(), [[0, 2], [2, 4]])
    assert_array_equal(result.truncated[-1], [False, True, False, True])
    assert_array_equal(result.episode_length[2], [3, 0, 0, 0])
    assert_array_equal(result.episode_return[2], [-0.75, 0.0, 0.0, 0.0])
    _, alone = jax.lax.scan(env.on_one_device().step, start(env), actions)
    assert_array_equal(alone.terminated, result.terminated)
    longer = env.with_length(LIMIT)
    assert not jax.lax.scan(longer.step, start(longer), actions)[1].terminated.any()


@pytest.mark.parametrize("value", [1e30, -3e38, np.inf, np.nan])
def test_a_reward_or_an_observation_that_is_no_measurement_is_a_failed_simulation(env, roll, value):
    """CountingTask pays what it is given, and its observation adds it up."""
    first = start(env)
    obs = first.physics.obs.at[1, 1].set(value)
    for state, actions in (
        (first, jnp.zeros((2, ENVS, 1)).at[0, 1].set(value)),
        (first._replace(physics=first.physics._replace(obs=obs)), jnp.zeros((2, ENVS, 1))),
    ):
        after, result = roll(state, actions)
        assert_array_equal(after.num_failures, [0, 1, 0, 0])
        assert_array_equal(result.reward, 0.0)
        assert_array_equal(result.terminated[:, 1], [True, False])
        assert_array_equal(np.abs(after.obs) <= 1e10, True)


def test_a_failed_simulation_ends_its_episode_without_reward_and_touches_no_other(env, roll):
    actions = jnp.full((4, ENVS, 1), 0.25)
    state, good = roll(start(env), actions)
    failed_state, failed = roll(start(env), actions.at[2, 1].set(jnp.nan))
    others = np.array([0, 2, 3])
    jax.tree.map(lambda a, b: assert_array_equal(a[:, others], b[:, others]), good, failed)
    assert_array_equal(state.obs[others], failed_state.obs[others])
    assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(failed_state.key))
    assert_array_equal(failed.terminated[:, 1], [False, False, True, False])
    assert_array_equal(failed.reward[:, 1], [0.25, 0.25, 0.0, 0.25])
    assert_array_equal(failed.episode_return[2, 1], 0.5)
    assert_array_equal(failed.episode_length[2, 1], 3)
    assert_array_equal(failed.next_obs[2, 1], failed.next_obs[1, 1])  # the last finite one
    assert_array_equal(failed_state.num_failures, [0, 1, 0, 0])
    assert all(np.isfinite(x).all() for x in failed)


def test_staggered_clocks_spread_the_resets_evenly():
    env = BatchedEnv(CountingTask(), 8)
    state = env.reset(jax.random.key(0), 8, stagger=True)
    assert_array_equal(state.clock, np.arange(8))
    _, result = jax.jit(lambda s, a: jax.lax.scan(env.step, s, a))(state, jnp.zeros((16, 8, 1)))
    assert_array_equal(result.truncated.sum(1), [1] * 16)  # one environment in every step
    # the first episode is cut short, its successor is whole: env 3 starts at clock 3
    assert_array_equal(result.episode_length[:, 3], [0] * 4 + [5] + [0] * 7 + [8] + [0] * 3)


def test_auto_reset_draws_among_the_start_states_and_refresh_renews_them(env, roll):
    first = start(env, num_starts=3)
    drawn = []
    for _ in range(8):
        first, _ = roll(first, jnp.zeros((LIMIT, ENVS, 1)))
        drawn.append(np.asarray(first.obs[:, 1]))
    assert set(np.ravel(drawn)) == set(np.asarray(first.starts.obs[:, 1]))  # 32 draws out of 3
    renewed = env.refresh(first, jax.random.key(9))
    assert renewed.starts.obs.shape == (3, 2)
    assert not np.isin(renewed.starts.obs[:, 1], first.starts.obs[:, 1]).any()


def test_a_state_has_no_weak_types_and_a_scan_over_it_is_traced_once(env):
    traces = []

    @jax.jit
    def run(state, actions):
        traces.append(None)
        return jax.lax.scan(env.step, state, actions)[0]

    state = jax.jit(lambda key: env.reset(key, ENVS))(jax.random.key(0))
    assert not any(x.weak_type for x in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))))
    for _ in range(3):
        state = run(state, jnp.zeros((2, ENVS, 1)))
    assert len(traces) == 1


def test_the_action_must_have_the_tasks_size(env):
    with pytest.raises(AssertionError):
        env.step(start(env), jnp.zeros((ENVS, 2)))


def test_a_film_is_of_as_many_environments_as_it_likes_however_many_devices_there_are():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    env = BatchedEnv(CountingTask(), LIMIT, mesh)
    with pytest.raises(ValueError, match="num_envs 3 is not allowed: a multiple of the 2 devices"):
        env.reset(jax.random.key(0), 3)
    assert env.on_one_device().reset(jax.random.key(0), 3).obs.shape == (3, 2)


class DeafTask(CountingTask):
    """Acts as if every action were 0, so that a number that is none leaves no trace in its state."""

    def step(self, state, action):
        return super().step(state, jnp.zeros_like(action))


def test_an_action_that_is_not_a_number_ends_the_episode_whatever_the_task_makes_of_it():
    deaf = BatchedEnv(DeafTask(), LIMIT)
    state, result = jax.jit(deaf.step)(deaf.reset(jax.random.key(0), 3), jnp.array([[0.0], [jnp.nan], [jnp.inf]]))
    assert_array_equal(result.terminated, [False, True, True])
    assert_array_equal(state.num_failures, [0, 1, 1])
