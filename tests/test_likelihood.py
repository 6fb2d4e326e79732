"""The exact log-likelihood of the sampler and its gradients, against closed forms and brute force."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import (
    integrate,
    log_prob_of_action,
    log_prob_of_noise,
    standard_normal_log_prob,
    tanh_log_prob,
    time_grid,
)

HIDDEN = 16


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mlp_params(key, obs_size, action_size, scale=1.0):
    sizes = [(obs_size + action_size + 2, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, action_size)]
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": scale * jax.random.normal(k, size) / math.sqrt(size[0]), "b": 0.1 * jax.random.normal(k, size[1:])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def mlp(params, obs, x, t):
    time = jnp.broadcast_to(jnp.stack([jnp.cos(3.0 * t), jnp.sin(3.0 * t)]), (*x.shape[:-1], 2))
    h = jnp.concatenate([obs, x, time.astype(x.dtype)], axis=-1)
    for i, layer in enumerate(params):
        h = h @ layer["w"] + layer["b"]
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


def linear(alpha, obs, x, t):
    del obs, t
    return alpha * x


def gaussian_field(s, obs, x, t):
    """The optimal velocity for actions ~ N(0, s^2): methods reference, section 6.1."""
    del obs
    return x * (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2)


def normal_log_prob(x, std):
    return np.sum(-0.5 * (x / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi), axis=-1)


def mlp_problem(seed=0, batch=5, obs_size=3, action_size=2, dtype=jnp.float64, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = mlp_params(keys[0], obs_size, action_size, scale)
    obs = jax.random.normal(keys[1], (batch, obs_size))
    noise = jax.random.normal(keys[2], (batch, action_size))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (params, obs, noise))


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun"])
@pytest.mark.parametrize("action_size", [1, 2, 3, 5])
def test_a_linear_field_scales_the_base_density_by_its_growth_factor(method, action_size):
    alpha, steps = 0.7, 10
    dt = -1.0 / steps
    growth = {"euler": 1 + dt * alpha}.get(method, 1 + dt * alpha + (dt * alpha) ** 2 / 2) ** steps
    noise = jax.random.normal(jax.random.key(0), (64, action_size))
    got = log_prob_of_noise(linear, alpha, jnp.zeros((64, 1)), noise, time_grid(steps, kind="uniform"), method=method)
    np.testing.assert_allclose(got.action, growth * noise, rtol=1e-5)
    np.testing.assert_allclose(got.log_prob, normal_log_prob(np.asarray(got.action), growth), atol=2e-5)
    assert bool(jnp.all(got.valid))


@pytest.mark.parametrize(("steps", "error"), [(10, 0.116), (50, 0.020), (1000, 0.001)])
def test_the_gaussian_field_differs_from_the_true_density_by_the_known_discretisation_error(steps, error):
    noise = jnp.asarray([[0.7]])
    got = log_prob_of_noise(gaussian_field, 0.3, jnp.zeros((1, 1)), noise, time_grid(steps, kind="uniform"))
    assert float(got.log_prob[0] - normal_log_prob(np.asarray(got.action), 0.3)[0]) == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun"])
def test_the_score_at_a_fixed_action_equals_finite_differences_of_a_brute_force_inverse(x64, method):
    params, obs, noise = mlp_problem()
    times = time_grid(10, kind="uniform").astype(jnp.float64)

    def brute_force(params, action):
        """Newton on the whole map Phi(x) = a, then log N(x) - log|det dPhi/dx|: shares nothing with the code under test."""

        def single(obs, action, x):
            phi = lambda x: integrate(partial(mlp, params, obs), x, times, method=method)
            for _ in range(30):
                x = x - jnp.linalg.solve(jax.jacfwd(phi)(x), phi(x) - action)
            return standard_normal_log_prob(x) - jnp.linalg.slogdet(jax.jacfwd(phi)(x))[1]

        return jax.vmap(single)(obs, action, noise)

    brute_force = jax.jit(brute_force)
    got = log_prob_of_noise(mlp, params, obs, noise, times, method=method)
    action = got.action
    np.testing.assert_allclose(got.log_prob, brute_force(params, action), atol=1e-12)

    weights = jnp.arange(1.0, 6.0) - 2.5  # of both signs, like advantages
    score = jax.grad(lambda p: jnp.sum(weights * log_prob_of_noise(mlp, p, obs, noise, times, method=method).log_prob))(
        params
    )
    by_inverse = jax.grad(
        lambda p: jnp.sum(
            weights * log_prob_of_action(mlp, p, obs, action, times, method=method, tolerance=1e-13).log_prob
        )
    )(params)
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        h = 1e-5
        plus, minus = (jax.tree.map(lambda p, u, s=s: p + s * h * u, params, direction) for s in (1, -1))
        slope = float(jnp.sum(weights * (brute_force(plus, action) - brute_force(minus, action))) / (2 * h))
        for gradient in (score, by_inverse):
            inner = sum(
                float(jnp.vdot(g, u))
                for g, u in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
            )
            assert inner == pytest.approx(slope, abs=2e-8 * max(1, abs(slope)))
