"""The rollout: the noise it acts with, what it stores, and what it hands to the environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from probe_tasks import ProbeState

from dipod_jax.envs import BatchedEnv
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.training.rollout import rollout
from dipod_jax.training.state import ActorState, LearnerState
from dipod_jax.training.statistics import RunningStatistics

ENVS, STEPS, LIMIT, RHO, NOISE, CLIP = 4096, 12, 5, 0.8, 0.3, 1.5
OPTIONS = FlowOptions(noise_correlation=RHO, action_noise=NOISE, action_clip=CLIP)


class EchoTask:
    """The observation is the last action and a mark of the episode; the reward is the first entry of the action."""

    action_size, observation_size, dt, mj_model = 2, 3, 0.02, None

    def reset(self, key):
        return ProbeState(jnp.append(jnp.zeros(2), jax.random.uniform(key)), jnp.zeros(()), jnp.zeros(()))

    def step(self, state, action):
        return ProbeState(jnp.append(action, state.obs[2]), action[0], jnp.zeros(()))


class NoisePolicy:
    """The action is the base noise; it remembers what it was given. The squash is a half, not the usual tanh."""

    action_size, noise_shape = 2, (2,)

    def sample(self, params, obs, noise):
        return noise, (noise, obs)

    def squash(self, action):
        return 0.5 * action


@pytest.fixture(scope="module")
def acted():
    """Two rollouts, one after the other, and the actor before, between and after them; leaves are numpy."""
    env, policy = BatchedEnv(EchoTask(), LIMIT), NoisePolicy()
    statistics = RunningStatistics(jnp.float32(4.0), jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 16.0, 36.0]))
    learner = LearnerState({"policy": ()}, (), (), None, statistics, None, None, None)  # pyright: ignore
    keys = jax.random.split(jax.random.key(0), 4)
    start = ActorState(env.reset(keys[0], ENVS), jax.random.normal(keys[1], (ENVS, 2)))
    act = jax.jit(lambda actor, key: rollout(env, policy, OPTIONS, learner, actor, key, STEPS))
    between, first = act(start, keys[2])
    after, second = act(between, keys[3])
    starts = [np.asarray(actor.env.starts.obs) for actor in (start, between, after)]
    noises = [np.asarray(actor.base_noise) for actor in (start, between, after)]
    return starts, noises, *jax.device_get((first, second))


def correlation(x, y):
    return np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]


def test_the_base_noise_of_every_step_is_standard_normal(acted):
    for rollout_ in acted[2:]:
        noise = rollout_.trace[0]
        for step in (0, 1, STEPS - 1):
            assert scipy.stats.kstest(noise[step].ravel(), "norm").pvalue > 1e-3
        # the standard error of a deviation over 8192 is .008
        assert_allclose(noise.std((1, 2)), 1.0, atol=0.04)
        assert_allclose(noise.mean((1, 2)), 0.0, atol=0.05)


def test_the_base_noise_is_correlated_between_steps_and_rollouts_as_asked_and_between_nothing_else(acted):
    _, noises, first, second = acted
    path = np.concatenate([noises[0][None], first.trace[0], second.trace[0]])
    for lag in (1, 2, 5):
        found = [correlation(path[t], path[t + lag]) for t in range(len(path) - lag)]
        assert_allclose(found, RHO**lag, atol=0.05)  # standard error .011
    assert abs(correlation(path[..., 0], path[..., 1])) < 0.02  # two dimensions
    assert abs(correlation(path[:, : ENVS // 2], path[:, ENVS // 2 :])) < 0.02  # two environments
    assert_array_equal(noises[1], first.trace[0][-1])
    assert_array_equal(noises[2], second.trace[0][-1])


def test_the_action_is_clipped_and_then_perturbed_by_noise_of_its_own(acted):
    both = acted[2:]
    noise, action = (np.concatenate(x) for x in zip(*((r.trace[0], r.action) for r in both), strict=True))
    added = action - np.clip(noise, -CLIP, CLIP)
    assert scipy.stats.kstest(added.ravel()[::20] / NOISE, "norm").pvalue > 1e-3
    assert_allclose(added.std(), NOISE, rtol=0.01)
    assert np.abs(action).max() > CLIP + NOISE  # the sum is not clipped once more
    innovation = noise[1:] - RHO * noise[:-1]
    for other in (noise, np.roll(added, 1, 0), np.roll(added, 1, 1), np.roll(added, 1, 2)):
        assert abs(correlation(added, other)) < 0.02
    assert abs(correlation(added[1:], innovation)) < 0.02


def test_the_environment_is_given_the_squashed_action_that_is_stored(acted):
    for rollout_ in acted[2:]:
        assert_allclose(rollout_.reward, 0.5 * rollout_.action[..., 0], atol=1e-6)
        assert_allclose(rollout_.next_obs[..., :2], 0.5 * rollout_.action, atol=1e-6)


def test_the_policy_sees_the_observation_that_is_stored_normalised(acted):
    for rollout_ in acted[2:]:
        assert_allclose(rollout_.trace[1], (rollout_.obs - [1.0, 2.0, 3.0]) / [1.0, 2.0, 3.0], atol=1e-6)


def test_an_observation_is_the_last_steps_next_one_unless_an_episode_begins(acted):
    _, _, first, second = acted
    obs, next_obs, truncated, length = (
        np.concatenate([getattr(r, name) for r in (first, second)])
        for name in ("obs", "next_obs", "truncated", "episode_length")
    )
    assert truncated[LIMIT - 1 :: LIMIT].all() and truncated.sum() == 4 * ENVS
    assert_array_equal(length, np.where(truncated, LIMIT, 0))
    goes_on = ~truncated[:-1]
    assert_array_equal(obs[1:][goes_on], next_obs[:-1][goes_on])
    assert (obs[1:][~goes_on][:, :2] == 0.0).all()  # a start state
    assert_array_equal(next_obs[..., 2], obs[..., 2])  # never the next episode's


def test_the_return_of_an_episode_is_the_sum_of_its_rewards_across_rollouts(acted):
    _, _, first, second = acted
    reward, total = (
        np.concatenate([getattr(r, name) for r in (first, second)]) for name in ("reward", "episode_return")
    )
    sums = reward[: 4 * LIMIT].reshape(4, LIMIT, ENVS).sum(1)
    assert_allclose(total[LIMIT - 1 :: LIMIT], sums, atol=1e-5)


def test_every_rollout_has_start_states_of_its_own(acted):
    starts = acted[0]
    marks = [set(s[:, 2]) for s in starts]
    assert len(set.union(*marks)) == sum(map(len, marks)) == 3 * ENVS // 8
    begun = [set(np.ravel(r.obs[..., 2])) for r in acted[2:]]
    # the first rollout's episodes end after steps 5 and 10, the second's (from step 12 on) after 15 and 20
    assert len(begun[0] & marks[1]) > 100 and len(begun[1] & marks[2]) > 100
    assert not (begun[0] | begun[1]) & marks[0]
