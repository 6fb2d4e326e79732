"""The Gaussian policy against an explicit numpy network, scipy's densities and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose
from numpy_networks import ACTION, OBS, batch, dense_layers, numpy_mlp

from dipod_jax.policies.gaussian import GaussianOptions


@pytest.fixture(scope="module")
def gaussian():
    policy = GaussianOptions(hidden_sizes=(16, 12)).build(OBS, ACTION)
    return policy, jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))


def numpy_distribution(params, obs):
    mean, raw = np.split(numpy_mlp(dense_layers(params["params"]), obs), 2, axis=-1)
    return mean, np.log1p(np.exp(raw)) + 1e-3


def test_gaussian_loss_is_scipys_negative_log_density(gaussian):
    policy, params = gaussian
    obs, action, _ = batch()
    loss = jax.jit(policy.score)(params, jnp.float32(obs), jnp.float32(action), ()).loss
    mean, std = numpy_distribution(params, obs)
    assert loss.shape == (7, 1)
    assert_allclose(loss[:, 0], -scipy.stats.norm(mean, std).logpdf(action).sum(-1), rtol=1e-4)


def test_gaussian_action_is_the_base_noise_shifted_and_scaled(gaussian):
    policy, params = gaussian
    obs, noise, _ = batch()
    mean, std = numpy_distribution(params, obs)
    act = lambda noise: policy.sample(params, jnp.float32(obs), noise)[0]
    assert_allclose(act(jnp.float32(noise)), mean + std * noise, atol=1e-5)
    assert_allclose(act(jnp.zeros((7, ACTION))), mean, atol=1e-5)


def test_squashed_entropy_agrees_with_the_histogram_of_squashed_actions(gaussian):
    policy, params = gaussian
    obs = jnp.float32(batch()[0][0])
    noise = jax.random.normal(jax.random.key(3), (200_000, ACTION))
    estimate = jax.jit(policy.entropy)(params, jnp.broadcast_to(obs, (200_000, OBS)), noise).mean()
    # independent: entropy of tanh(a) per dimension by quadrature of -p log p over a grid of actions
    mean, std = numpy_distribution(params, np.float64(obs))
    a = np.linspace(-1, 1, 200_001)[1:-1]
    z = np.arctanh(a)[:, None]
    density = scipy.stats.norm(mean, std).pdf(z) / (1 - a[:, None] ** 2)
    integrand = -density * np.log(np.maximum(density, 1e-300))
    assert_allclose(estimate, np.trapezoid(integrand, a, axis=0).sum(), atol=0.02)


@pytest.mark.slow
def test_entropy_is_finite_in_saturation(gaussian):
    policy, params = gaussian
    obs, noise = jnp.zeros((2, OBS)), jnp.array([[1e3], [-1e3]]) * jnp.ones(ACTION)
    value, gradient = jax.value_and_grad(lambda p: policy.entropy(p, obs, noise).mean())(params)
    assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))
