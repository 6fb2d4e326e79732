"""The study of where to put (t, eps): its estimates against closed forms, and whose actions they are of."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax import envs
from dipod_jax.bounds import evaluation_times, gaussian_velocity, time_grid
from dipod_jax.diagnostics import synthetic
from dipod_jax.presets import make_config
from dipod_jax.studies.placements import policies
from dipod_jax.studies.placements.measurement import _Placing, cells, noise_over_signal
from dipod_jax.studies.placements.options import TARGETS, Config
from dipod_jax.studies.placements.policies import BURN_IN, OnPolicy
from dipod_jax.training.loading import TrainedPolicy
from dipod_jax.training.statistics import RunningStatistics

STD = 0.3


@pytest.fixture(scope="module")
def placing():
    """The optimal field of N(0, .3^2 I) and 512 actions of it."""
    action = STD * jax.random.normal(jax.random.key(0), (512, 2))
    times = evaluation_times(time_grid(10, kind="uniform"), method="euler")
    policy = OnPolicy(gaussian_velocity, jnp.float32(STD), jnp.zeros((512, 1)), action, times)
    return _Placing(Config(batch=512, redraws=16), policy)


@pytest.mark.slow
def test_the_reference_elbo_is_minus_the_entropy_and_the_price_of_the_cutoff(placing):
    entropy = math.log(2 * math.pi * math.e * STD**2)
    cutoff = math.log(1 + (0.05 / (0.95 * STD)) ** 2)
    assert placing.reference_bound == pytest.approx(-(entropy + cutoff), abs=0.15)  # 512 actions: 3 standard errors


@pytest.mark.slow
def test_log_uniform_times_are_unbiased_and_quieter_than_uniform_ones(placing):
    uniform, log_uniform = (placing.row("monte-carlo", measure) for measure in ("uniform", "log-uniform"))
    assert abs(log_uniform["elbo_bias"]) < 4 * log_uniform["elbo_bias_se"]
    assert log_uniform["elbo_std"] < 0.7 * uniform["elbo_std"]
    assert uniform["loss_std"] > 0 and log_uniform["loss_std"] is None
    assert cells(log_uniform)["loss std"] == "" and cells(uniform)["t"] == "uniform"


def test_noise_over_signal_takes_the_means_own_noise_out():
    # mean 2, variance 4/3 (unbiased), so the mean's square is 4 and its own variance 1/3
    assert noise_over_signal(jnp.array([[1.0], [3.0], [1.0], [3.0]])) == pytest.approx(math.sqrt(4 / 11))
    assert noise_over_signal(jnp.array([[1.0], [-1.0]])) == math.inf


@pytest.mark.slow
def test_a_trained_policys_states_are_those_that_it_visits(monkeypatch):
    config, _ = make_config("smoke", "BallInCup", "fpo", "native")
    policy = config.policy.build(8, 2)
    statistics = RunningStatistics.zeros(8).update(jnp.arange(24.0).reshape(3, 8))
    found = TrainedPolicy(config, policy, policy.init(jax.random.key(3)), statistics)
    monkeypatch.setattr(policies, "restore_policy", lambda run: found)
    own = policies.trained(Config(batch=2, seed=5), run=None)

    env = envs.make("BallInCup", "native")
    key_reset, key_act, key_noise = jax.random.split(jax.random.key(5), 3)
    state = jax.jit(lambda key: env.reset(key, 2))(key_reset)
    act = jax.jit(lambda obs, noise: policy.sample(found.params, statistics.normalise(obs), noise)[0])
    step, expected = jax.jit(env.step), []
    for i, key in enumerate(jax.random.split(key_act, BURN_IN + 2)):
        state, _ = step(state, jnp.tanh(act(state.obs, jax.random.normal(key, (2, 2)))))
        if i >= BURN_IN:
            expected.append(state.obs[i - BURN_IN])
    expected = jnp.stack(expected)
    np.testing.assert_allclose(own.obs, statistics.normalise(expected), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(own.action, act(expected, jax.random.normal(key_noise, (2, 2))), rtol=1e-3, atol=1e-4)


def test_the_options_name_the_targets_there_are():
    assert TARGETS == synthetic.TARGETS
