"""Advantages by hand, and against independent float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.advantages import ADVANTAGES, Segment, standardise
from dipod_jax.advantages.brax import brax_gae
from dipod_jax.advantages.gae import gae

F = jnp.float32


def test_gae_of_three_steps_by_hand():
    # gamma .5, lambda .5, nothing ends; values 1, 2, 3, next values 2, 3, 4
    # delta = (1 + .5*2 - 1, 0 + .5*3 - 2, 2 + .5*4 - 3) = (1, -.5, 1)
    # A_2 = 1;  A_1 = -.5 + .25*1 = -.25;  A_0 = 1 + .25*(-.25) = .9375
    flags = jnp.zeros(3, bool)
    advantage, target = gae(F([1, 0, 2]), F([1, 2, 3]), F([2, 3, 4]), flags, flags, discount=0.5, gae_lambda=0.5)
    assert_array_equal(advantage, [0.9375, -0.25, 1.0])
    assert_array_equal(target, [1.9375, 1.75, 4.0])


def test_gae_cuts_at_a_termination_and_bootstraps_at_a_truncation():
    reward, value, next_value = F([1, 1, 1]), F([10, 10, 10]), F([20, 20, 20])
    no, middle = jnp.zeros(3, bool), jnp.array([False, True, False])
    # terminated in the middle: A_1 = 1 - 10 = -9 (no successor);  A_2 = 1 + .5*20 - 10 = 1;  A_0 = 1 + .5*(-9)
    terminated, _ = gae(reward, value, next_value, middle, no, discount=0.5, gae_lambda=1.0)
    assert_array_equal(terminated, [-3.5, -9.0, 1.0])
    # truncated: A_1 = 1 + .5*20 - 10 = 1, cut from A_2;  A_0 = 1 + .5*1
    truncated, _ = gae(reward, value, next_value, no, middle, discount=0.5, gae_lambda=1.0)
    assert_array_equal(truncated, [1.5, 1.0, 1.0])


def numpy_gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """For every start, sum the discounted TD errors until the first end: no recursion."""
    steps, envs = reward.shape
    advantage = np.zeros((steps, envs))
    for b in range(envs):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                bootstrap = 0.0 if terminated[t, b] else gamma * next_value[t, b]
                advantage[start, b] += weight * (reward[t, b] + bootstrap - value[t, b])
                weight *= gamma * lam
                if terminated[t, b] or truncated[t, b]:
                    break
    return advantage, advantage + value


def numpy_brax_gae(reward, value, last_value, terminated, truncated, gamma, lam):
    """Brax's `compute_gae`: A = r + gamma vs_{t+1} - V, nothing learned from truncated steps."""
    steps, envs = reward.shape
    advantage, target = np.zeros((steps, envs)), np.zeros((steps, envs))
    for b in range(envs):
        v = np.append(value[:, b], last_value[b])
        vs, error = np.append(np.zeros(steps), last_value[b]), 0.0
        for t in reversed(range(steps)):
            alive, inside = 1.0 - terminated[t, b], 1.0 - truncated[t, b]
            delta = (reward[t, b] + gamma * alive * v[t + 1] - v[t]) * inside
            error = delta + gamma * alive * inside * lam * error
            vs[t] = error + v[t]
        for t in range(steps):
            alive, inside = 1.0 - terminated[t, b], 1.0 - truncated[t, b]
            advantage[t, b] = (reward[t, b] + gamma * alive * vs[t + 1] - v[t]) * inside
        target[:, b] = vs[:-1]
    return advantage, target


def random_rollout(steps=40, envs=16):
    rng = np.random.default_rng(1)
    reward, value, next_value = rng.standard_normal((3, steps, envs))
    terminated = rng.random((steps, envs)) < 0.1
    truncated = (rng.random((steps, envs)) < 0.1) & ~terminated
    assert terminated.any() and truncated.any()
    return reward, value, next_value, terminated, truncated


def on_device(*arrays):
    return tuple(jnp.asarray(x, x.dtype if x.dtype == bool else jnp.float32) for x in arrays)


@pytest.mark.parametrize(("gamma", "lam"), [(0.95, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.95)])
def test_gae_equals_an_independent_sum_of_td_errors(gamma, lam):
    data = random_rollout()
    result = gae(*on_device(*data), discount=gamma, gae_lambda=lam)
    for ours, theirs in zip(result, numpy_gae(*data, gamma, lam), strict=True):
        assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("gamma", "lam"), [(0.95, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_brax_gae_equals_an_independent_loop(gamma, lam):
    reward, value, next_value, terminated, truncated = random_rollout()
    data = reward, value, next_value[-1], terminated, truncated
    advantage, target = brax_gae(*on_device(*data), discount=gamma, gae_lambda=lam)
    expected_advantage, expected_target = numpy_brax_gae(*data, gamma, lam)
    assert_allclose(advantage, expected_advantage, atol=2e-5)
    assert_allclose(target, expected_target, atol=2e-5)
    assert_array_equal(np.asarray(advantage)[truncated], 0.0)


def test_at_lambda_zero_both_estimators_are_the_td_error():
    reward, value, next_value, *_ = on_device(*random_rollout())
    next_value = jnp.concatenate([value[1:], next_value[-1:]])
    never = jnp.zeros(reward.shape, bool)
    options = dict(discount=0.9, gae_lambda=0.0)
    ours, _ = gae(reward, value, next_value, never, never, **options)
    assert_allclose(ours, reward + 0.9 * next_value - value, atol=1e-6)
    # Brax's advantage looks one step further: its target's successor is a lambda-return, at lambda 0 r + gamma V
    _, target = brax_gae(reward, value, next_value[-1], never, never, **options)
    assert_allclose(target, reward + 0.9 * next_value, atol=1e-5)


def test_standardised_advantages_have_mean_zero_and_deviation_one():
    advantage = jnp.asarray(np.random.default_rng(2).normal(3.0, 2.0, (32, 64)), jnp.float32)
    result = np.asarray(standardise(advantage), np.float64)
    assert_allclose((result.mean(), result.std()), (0.0, 1.0), atol=1e-5)
    assert_array_equal(standardise(jnp.full(8, 5.0)), 0.0)  # no spread: 0, not nan


def test_standardising_over_shards_equals_standardising_over_all():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    advantage = jnp.asarray(np.random.default_rng(2).normal(3.0, 2.0, (8, 64)), jnp.float32)
    sharded = jax.jit(standardise, in_shardings=sharding, out_shardings=sharding)(advantage)
    assert_allclose(sharded, standardise(advantage), atol=1e-5)


def test_estimators_give_the_critic_the_right_observations_and_weigh_the_targets():
    """The value of an observation is itself; one estimator bootstraps at every step, one at the last."""
    reward, value, next_value, terminated, truncated = on_device(*random_rollout())
    segment = Segment(value[..., None], next_value[..., None], reward, terminated, truncated)
    options = dict(discount=0.9, gae_lambda=0.8)
    value_fn = lambda obs: obs[..., 0]
    ends = terminated, truncated
    found = ADVANTAGES["iteration"]()(segment, value, value_fn, **options)
    expected = gae(reward, value, next_value, *ends, **options)
    assert_array_equal(found.advantage, expected[0])
    assert_array_equal(found.value_target, expected[1])
    assert_array_equal(found.value_weight, 1.0)
    found = ADVANTAGES["minibatch"]()(segment, value, value_fn, **options)
    expected = brax_gae(reward, value, next_value[-1], *ends, **options)
    assert_array_equal(found.advantage, expected[0])
    assert_array_equal(found.value_target, expected[1])
    assert_array_equal(found.value_weight, ~truncated)
