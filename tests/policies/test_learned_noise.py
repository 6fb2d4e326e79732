"""The chain with learned noise against brute-force numpy sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from chains import ACTION, OBS, SMALL, acted, make, moved
from numpy.testing import assert_allclose

from dipod_jax.policies.learned_noise import LearnedNoiseOptions


@pytest.fixture(scope="module")
def policy_and_params():
    return make(LearnedNoiseOptions(**SMALL))


@pytest.mark.slow
def test_the_noise_depends_on_state_and_time_and_stays_between_its_bounds(policy_and_params):
    policy, params = policy_and_params
    obs = 50.0 * jax.random.normal(jax.random.key(0), (1000, OBS))
    noise = policy.noise(params, obs, jnp.float32(0.5))
    assert noise.shape == (1000, ACTION)
    assert_allclose((noise.min(), noise.max()), (0.10, 0.24), rtol=1e-3)
    at = [policy.noise(params, jnp.ones(OBS), jnp.float32(t)) for t in (0.2, 0.9)]
    assert jnp.abs(at[0] - at[1]).max() > 1e-3
    silent = params | {"noise": jax.tree.map(jnp.zeros_like, params["noise"])}
    assert_allclose(policy.noise(silent, obs[0], jnp.float32(1.0)), np.sqrt(0.10 * 0.24), rtol=1e-5)


def test_the_score_is_the_density_of_the_whole_path_per_state_and_dimension(policy_and_params):
    policy, params = policy_and_params
    obs, action, path, evidence = acted(policy, params)
    new = moved(params)
    scores = jax.jit(policy.score)(new, obs, action, evidence)
    assert scores.loss.shape == (7, 1)
    total = scipy.stats.norm.logpdf(np.float64(path[:, 0])).sum(-1)
    for k in range(4):
        t = jnp.full(7, 1 - k / 4)
        mean = np.float64(path[:, k]) - 0.25 * np.float64(policy.velocity(new, obs, path[:, k], t))
        std = np.float64(policy.noise(new, obs, t))
        total += scipy.stats.norm(mean, std).logpdf(np.float64(path[:, k + 1])).sum(-1)
    assert_allclose(-scores.loss[:, 0], total / (5 * ACTION), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_path_takes_the_noise_it_is_given(policy_and_params):
    policy, params = policy_and_params
    obs, noise = jnp.ones((2, OBS)), jax.random.normal(jax.random.key(1), (2, 5, ACTION))
    _, path = policy.sample(params, obs, noise)
    _, drift = policy.sample(params, obs, noise.at[:, 1:].set(0.0))
    assert_allclose(path[:, 1] - drift[:, 1], policy.noise(params, obs, jnp.float32(1.0)) * noise[:, 1], atol=1e-6)


def test_bounds_that_cross_are_refused_by_name():
    with pytest.raises(ValueError, match=r"--policy\.max-noise 0\.1 is not allowed"):
        LearnedNoiseOptions(min_noise=0.2, max_noise=0.1).validate()
