"""Policies against explicit numpy networks, scipy's densities and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.bounds import Draws
from dipod_jax.config import Config, CriticConfig, PolicyConfig
from dipod_jax.networks import time_embedding
from dipod_jax.policies import Critic, ExactFlowPolicy, FlowPolicy, GaussianPolicy, make_policy
from dipod_jax.training.rollout import correlated_noise

OBS, ACTION = 5, 3
SMALL = dict(hidden_sizes=(16, 12), num_steps=4, num_draws=6)


def numpy_silu(x):
    return x / (1.0 + np.exp(-x))


def numpy_mlp(layers, x):
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if index < len(layers) - 1:
            x = numpy_silu(x)
    return x


def dense_layers(params):
    """Kernels and biases of Dense_0, Dense_1, ... in float64."""
    return [(np.float64(params[n]["kernel"]), np.float64(params[n]["bias"])) for n in sorted(params)]


def numpy_velocity(params, obs, x, t, config):
    """A plain network on the concatenation [obs, x_t, cos(t 2^k), sin(t 2^k)] (FPO's code), in float64."""
    p = params["params"]
    k = np.arange(config.time_embedding_size // 2)
    angles = np.asarray(t, np.float64)[..., None] * 2.0**k
    inputs = np.concatenate([obs, x, np.cos(angles), np.sin(angles)], axis=-1)
    first = np.float64(p["input_kernel"]), np.float64(p["input_bias"])
    return config.output_scale * numpy_mlp([first, *dense_layers(p["MLP_0"])], inputs)


@pytest.fixture(scope="module")
def flow():
    """A flow policy whose biases are not zero, so that a forgotten one shows."""
    policy = FlowPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    params = jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))
    return policy, params


def batch(shape=(7,), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, OBS)), rng.standard_normal((*shape, ACTION)), rng.random(shape)


def test_time_embedding_is_cos_and_sin_of_powers_of_two_without_pi():
    expected = [1.0, 1.0, 0.0, 0.0], [np.cos(0.5), np.cos(1.0), np.sin(0.5), np.sin(1.0)]
    assert_allclose(time_embedding(jnp.array([0.0, 0.5]), 4), expected, rtol=1e-6)


def test_velocity_field_equals_a_network_on_the_concatenated_inputs(flow):
    policy, params = flow
    obs, x, t = batch()
    velocity = jax.jit(policy.velocity)(params, *map(jnp.float32, (obs, x, t)))
    assert velocity.shape == (7, ACTION)
    assert_allclose(velocity, numpy_velocity(params, obs, x, t, policy.config), atol=1e-5)


def test_velocity_field_broadcasts_the_observation_over_draws(flow):
    policy, params = flow
    obs, _, _ = batch()
    _, x, t = batch((7, 6))
    velocity = jax.jit(policy.velocity)(params, *map(jnp.float32, (obs[:, None], x, t)))
    repeated = np.broadcast_to(obs[:, None], (7, 6, OBS))
    assert_allclose(velocity, numpy_velocity(params, repeated, x, t, policy.config), atol=1e-5)


def test_the_action_is_the_end_of_euler_steps_through_the_velocity_field(flow):
    policy, params = flow
    obs, x, _ = batch()
    action = jax.jit(policy.act)(params, jnp.float32(obs), jnp.float32(x))
    for t in (1.0, 0.75, 0.5, 0.25):  # K = 4 steps from noise to action
        x = x - 0.25 * numpy_velocity(params, obs, x, np.full(7, t), policy.config)
    assert_allclose(action, x, atol=1e-5)


@pytest.mark.parametrize("form", ["eps", "velocity"])
def test_flow_loss_is_the_squared_error_of_the_prediction_in_the_form_asked_for(flow, form):
    _, params = flow
    policy = FlowPolicy(PolicyConfig(**SMALL, loss_form=form), OBS, ACTION)
    obs, action, _ = batch()
    _, eps, t = batch((7, 6), seed=1)
    loss = jax.jit(policy.loss)(params, *map(jnp.float32, (obs, action)), Draws(jnp.float32(t), jnp.float32(eps)))
    x_t = (1 - t[..., None]) * action[:, None] + t[..., None] * eps
    obs = np.broadcast_to(obs[:, None], (7, 6, OBS))
    velocity = numpy_velocity(params, obs, x_t, t, policy.config)
    # eps_hat = x_t + (1 - t) v_hat (methods, section 0)
    error = x_t + (1 - t[..., None]) * velocity - eps if form == "eps" else velocity - (eps - action[:, None])
    assert loss.shape == (7, 6)
    assert_allclose(loss, np.square(error).mean(-1), atol=1e-5)


def test_eps_loss_is_zero_at_pure_noise(flow):
    policy, params = flow
    obs, action, _ = map(jnp.float32, batch())
    eps = jax.random.normal(jax.random.key(1), (7, 6, ACTION))
    assert_array_equal(policy.loss(params, obs, action, Draws(jnp.ones((7, 6)), eps)), 0.0)


def test_the_elbo_form_estimates_the_elbos_integral_of_a_field_that_is_zero():
    delta = 0.05
    config = PolicyConfig(**SMALL, loss_form="elbo", draws="stratified", elbo_cutoff=delta)
    policy = FlowPolicy(config, OBS, ACTION)
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    action = jnp.tile(jnp.array([0.5, -1.0, 2.0]), (50_000, 1))
    draws = policy.sample_draws(jax.random.key(1), (50_000,))
    loss = policy.loss(params, jnp.zeros((50_000, OBS)), action, draws)
    assert loss.shape == (50_000, 6) and draws.t.min() >= delta
    # v_hat = 0: E|v|^2 = d + |a|^2, and int_delta^1 (1-t)/t dt = log(1/delta) - (1 - delta); standard error .3 %
    exact = (np.log(1 / delta) - (1 - delta)) * (3 + 0.25 + 1.0 + 4.0)
    assert_allclose(loss.mean(), exact, rtol=0.015)


def test_stored_draws_lie_on_the_samplers_grid_where_the_paper_says_so(flow):
    policy, _ = flow
    draws = policy.sample_draws(jax.random.key(2), (11, 13))
    assert draws.t.shape == (11, 13, 6) and draws.eps.shape == (11, 13, 6, ACTION)
    assert set(np.unique(draws.t)) == {1.0, 0.75, 0.5, 0.25}


def test_the_exact_loss_is_the_density_of_the_samplers_image_under_moved_parameters(flow):
    """Against scipy's root of the whole sampler and a Jacobian by finite differences, in float64 numpy."""
    _, params = flow
    policy = ExactFlowPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    obs, noise, _ = batch((2, 3))
    obs32, noise32 = jnp.float32(obs), jnp.float32(noise)
    action = policy.act(params, obs32, noise32)
    prepared = policy.prepare(params, jax.random.key(0), obs32, noise32)
    moved = jax.tree.map(lambda x: 1.05 * x, params)
    loss = jax.jit(policy.loss)(moved, obs32, action, prepared)
    assert loss.shape == (2, 3, 1)

    def act(x, o):
        for t in (1.0, 0.75, 0.5, 0.25):
            x = x - 0.25 * numpy_velocity(moved, o, x, np.float64(t), policy.config)
        return x

    for index in np.ndindex(2, 3):
        o, target = obs[index], np.float64(action[index])
        root = scipy.optimize.fsolve(lambda x, o=o, target=target: act(x, o) - target, noise[index], xtol=1e-12)
        columns = [(act(root + h, o) - act(root - h, o)) / 2e-6 for h in 1e-6 * np.eye(ACTION)]
        log_prob = scipy.stats.norm.logpdf(root).sum() - np.linalg.slogdet(np.array(columns))[1]
        assert_allclose(-loss[index][0], log_prob, atol=1e-3)


def test_the_bound_beside_the_exact_likelihood_is_the_cfm_loss_on_draws_of_its_own(flow):
    _, params = flow
    policy = ExactFlowPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    obs, noise, _ = map(jnp.float32, batch())
    action = policy.act(params, obs, noise)
    prepared = policy.prepare(params, jax.random.key(3), obs, noise)
    loss = policy.loss(params, obs, action, prepared)
    bound = policy.bound_loss(params, obs, action, prepared, loss)
    plain = FlowPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    draws = plain.prepare(params, jax.random.key(3), obs, noise)
    assert_allclose(bound, plain.loss(params, obs, action, draws), rtol=1e-6)
    assert bound.shape == (7, 6) and loss.shape == (7, 1)


def test_the_exact_loss_is_nan_where_no_noise_leads_to_the_action(flow):
    _, params = flow
    policy = ExactFlowPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    obs, noise, _ = map(jnp.float32, batch())
    action = policy.act(params, obs, noise).at[2].set(jnp.inf)
    loss = policy.loss(params, obs, action, policy.prepare(params, jax.random.key(0), obs, noise))
    assert_array_equal(np.isnan(loss[:, 0]), np.arange(7) == 2)


def test_a_flow_has_no_entropy_to_offer(flow):
    policy, params = flow
    assert_array_equal(policy.entropy(params, jnp.ones((7, OBS)), jnp.ones((7, ACTION))), np.zeros(7))


@pytest.fixture(scope="module")
def gaussian():
    policy = GaussianPolicy(PolicyConfig(**SMALL), OBS, ACTION)
    return policy, jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))


def numpy_distribution(params, obs):
    mean, raw = np.split(numpy_mlp(dense_layers(params["params"]), obs), 2, axis=-1)
    return mean, np.log1p(np.exp(raw)) + 1e-3


def test_gaussian_loss_is_scipys_negative_log_density(gaussian):
    policy, params = gaussian
    obs, action, _ = batch()
    loss = jax.jit(policy.loss)(params, jnp.float32(obs), jnp.float32(action), ())
    mean, std = numpy_distribution(params, obs)
    assert loss.shape == (7, 1)
    assert_allclose(loss[:, 0], -scipy.stats.norm(mean, std).logpdf(action).sum(-1), rtol=1e-4)


def test_gaussian_action_is_the_base_noise_shifted_and_scaled(gaussian):
    policy, params = gaussian
    obs, noise, _ = batch()
    mean, std = numpy_distribution(params, obs)
    assert_allclose(policy.act(params, jnp.float32(obs), jnp.float32(noise)), mean + std * noise, atol=1e-5)
    assert_allclose(policy.act(params, jnp.float32(obs), jnp.zeros((7, ACTION))), mean, atol=1e-5)


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


def test_entropy_is_finite_in_saturation(gaussian):
    policy, params = gaussian
    obs, noise = jnp.zeros((2, OBS)), jnp.array([[1e3], [-1e3]]) * jnp.ones(ACTION)
    value, gradient = jax.value_and_grad(lambda p: policy.entropy(p, obs, noise).mean())(params)
    assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_critic_equals_a_numpy_network():
    critic = Critic(CriticConfig(hidden_sizes=(8, 8)), OBS)
    params = jax.tree.map(lambda x: x + 0.1, critic.init(jax.random.key(0)))
    obs = batch((4, 6))[0]
    value = critic.value(params, jnp.float32(obs))
    assert value.shape == (4, 6)
    assert_allclose(value, numpy_mlp(dense_layers(params["params"]), obs)[..., 0], atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "kind"), [("fpo", FlowPolicy), ("exact-ppo", ExactFlowPolicy), ("ppo", GaussianPolicy)]
)
def test_the_objective_decides_the_kind_of_policy(objective, kind):
    assert type(make_policy(Config(objective=objective), OBS, ACTION)) is kind


@pytest.mark.parametrize("rho", [0.0, 0.8, 0.95])
def test_correlated_noise_stays_standard_normal_and_is_correlated_as_asked(rho):
    size, steps = 20_000, 60

    def step(x, key):
        x = correlated_noise(key, x, rho)
        return x, x

    start = jax.random.normal(jax.random.key(0), (size,))
    _, path = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(1), steps)))()
    path = np.asarray(path, np.float64)
    last = path[-1]
    # standard errors at 20,000 independent chains: mean .007, deviation .005, correlation .007 at most
    assert_allclose((last.mean(), last.std()), (0.0, 1.0), atol=0.03)
    assert scipy.stats.kstest(last, "norm").pvalue > 1e-3
    for lag in (1, 3):
        assert_allclose(np.corrcoef(last, path[-1 - lag])[0, 1], rho**lag, atol=0.03)
