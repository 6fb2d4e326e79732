"""The flow policy against explicit numpy networks and integrals with a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy_networks import ACTION, OBS, SMALL, batch, numpy_velocity

from dipod_jax.bounds import Draws, log_prob_of_noise, time_grid
from dipod_jax.diagnostics.gap import elbo_of_actions
from dipod_jax.networks import time_embedding
from dipod_jax.policies.flow import FlowOptions


@pytest.fixture(scope="module", params=["zero", "gaussian"])
def flow(request):
    """A flow policy whose biases are not zero, so that a forgotten one shows."""
    policy = FlowOptions(**SMALL, base_velocity=request.param).build(OBS, ACTION)
    params = jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))
    return policy, params


def test_time_embedding_is_cos_and_sin_of_powers_of_two_without_pi():
    expected = [1.0, 1.0, 0.0, 0.0], [np.cos(0.5), np.cos(1.0), np.sin(0.5), np.sin(1.0)]
    assert_allclose(time_embedding(jnp.array([0.0, 0.5]), 4), expected, rtol=1e-6)


def test_velocity_field_equals_a_network_on_the_concatenated_inputs(flow):
    policy, params = flow
    obs, x, t = batch()
    velocity = jax.jit(policy.velocity)(params, *map(jnp.float32, (obs, x, t)))
    assert velocity.shape == (7, ACTION)
    assert_allclose(velocity, numpy_velocity(params, obs, x, t, policy.options), atol=1e-5)


def test_velocity_field_broadcasts_the_observation_over_draws(flow):
    policy, params = flow
    obs, _, _ = batch()
    _, x, t = batch((7, 6))
    velocity = jax.jit(policy.velocity)(params, *map(jnp.float32, (obs[:, None], x, t)))
    repeated = np.broadcast_to(obs[:, None], (7, 6, OBS))
    assert_allclose(velocity, numpy_velocity(params, repeated, x, t, policy.options), atol=1e-5)


def test_the_action_is_the_end_of_euler_steps_through_the_velocity_field(flow):
    policy, params = flow
    obs, x, _ = batch()
    action, trace = jax.jit(policy.sample)(params, jnp.float32(obs), jnp.float32(x))
    assert_array_equal(trace, jnp.float32(x))
    for t in (1.0, 0.75, 0.5, 0.25):  # K = 4 steps from noise to action
        x = x - 0.25 * numpy_velocity(params, obs, x, np.full(7, t), policy.options)
    assert_allclose(action, x, atol=1e-5)


@pytest.mark.parametrize("form", ["eps", "velocity"])
def test_flow_loss_is_the_squared_error_of_the_prediction_in_the_form_asked_for(flow, form):
    _, params = flow
    policy = FlowOptions(**SMALL, loss_form=form).build(OBS, ACTION)
    obs, action, _ = batch()
    _, eps, t = batch((7, 6), seed=1)
    draws = Draws(jnp.float32(t), jnp.float32(eps))
    scores = jax.jit(policy.score)(params, *map(jnp.float32, (obs, action)), draws)
    x_t = (1 - t[..., None]) * action[:, None] + t[..., None] * eps
    obs = np.broadcast_to(obs[:, None], (7, 6, OBS))
    velocity = numpy_velocity(params, obs, x_t, t, policy.options)
    # eps_hat = x_t + (1 - t) v_hat (docs/bounds.md)
    error = x_t + (1 - t[..., None]) * velocity - eps if form == "eps" else velocity - (eps - action[:, None])
    assert scores.loss.shape == (7, 6) and scores.known.all()
    assert_allclose(scores.loss, np.square(error).mean(-1), atol=1e-5)
    assert_allclose(scores.bound, np.square(error).mean((-1, -2)), atol=1e-5)


def test_eps_loss_is_zero_at_pure_noise(flow):
    policy, params = flow
    obs, action, _ = map(jnp.float32, batch())
    eps = jax.random.normal(jax.random.key(1), (7, 6, ACTION))
    assert_array_equal(policy.score(params, obs, action, Draws(jnp.ones((7, 6)), eps)).loss, 0.0)


@pytest.mark.slow
def test_the_elbo_form_estimates_the_elbos_integral_of_a_field_that_is_zero():
    delta = 0.05
    policy = FlowOptions(**SMALL, loss_form="elbo", draws="stratified", elbo_cutoff=delta).build(OBS, ACTION)
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    action = jnp.tile(jnp.array([0.5, -1.0, 2.0]), (50_000, 1))
    draws = policy.sample_draws(jax.random.key(1), (50_000,))
    loss = policy.score(params, jnp.zeros((50_000, OBS)), action, draws).loss
    assert loss.shape == (50_000, 6) and draws.t.min() >= delta
    # v_hat = 0: E|v|^2 = d + |a|^2, and int_delta^1 (1-t)/t dt = log(1/delta) - (1 - delta); standard error .3 %
    exact = (np.log(1 / delta) - (1 - delta)) * (3 + 0.25 + 1.0 + 4.0)
    assert_allclose(loss.mean(), exact, rtol=0.015)


@pytest.mark.parametrize("base", ["zero", "gaussian"])
def test_the_bound_of_a_policy_that_has_learned_nothing_is_tight_where_its_base_velocity_is_gaussian(base):
    """A field of zero leaves int (1 - t) / t E|v*|^2 dt open, v* = (2 t - 1) / (t^2 + (1 - t)^2) x_t."""
    policy = FlowOptions(**SMALL, base_velocity=base).build(OBS, ACTION)
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    obs, noise = jnp.zeros((2000, OBS)), jax.random.normal(jax.random.key(1), (2000, ACTION))
    times = time_grid(100, kind="uniform")
    likelihood = log_prob_of_noise(policy.velocity, params, obs, noise, times, method="midpoint")
    draws = {"delta": 0.05, "num_draws": 32}
    bound = elbo_of_actions(policy.velocity, params, obs, likelihood.action, jax.random.key(2), **draws)
    t = np.linspace(0.05, 1.0, 10_001)
    error = (1 - t) / t * (2 * t - 1) ** 2 / (t**2 + (1 - t) ** 2)
    open_by = {"zero": ACTION * np.trapezoid(error, t), "gaussian": 0.0}  # 3.44 nats
    assert_allclose(jnp.mean(likelihood.log_prob - bound), open_by[base], atol=0.1)


def test_stored_draws_lie_on_the_samplers_grid_where_the_paper_says_so(flow):
    policy, _ = flow
    draws = policy.sample_draws(jax.random.key(2), (11, 13))
    assert draws.t.shape == (11, 13, 6) and draws.eps.shape == (11, 13, 6, ACTION)
    assert set(np.unique(draws.t)) == {1.0, 0.75, 0.5, 0.25}


def test_a_flow_has_no_entropy_to_offer(flow):
    policy, params = flow
    assert policy.entropy(params, jnp.ones((7, OBS)), jnp.ones((7, ACTION))) is None
    assert not policy.options.has_entropy


def test_a_pre_image_is_a_noise_that_the_sampler_carries_to_the_action_or_is_not_there():
    policy = FlowOptions(hidden_sizes=(8,), num_steps=2, output_scale=15.0).build(OBS, ACTION)  # a steep field folds
    params = policy.init(jax.random.key(0))
    obs, noise = (jax.random.normal(jax.random.key(k), (64, n)) for k, n in ((1, OBS), (2, ACTION)))
    action = 3.0 * noise
    found = policy.pre_image(params, obs, action)
    missing = np.isnan(found).any(-1)
    assert 10 < missing.sum() < 54
    back = policy.sample(params, obs, found)[0]
    assert_allclose(back[~missing], action[~missing], atol=0.05)


def test_draws_that_are_scored_in_groups_keep_their_places_and_their_weights_in_the_bound():
    sizes = dict(hidden_sizes=(8,), num_steps=2, draws="gauss-legendre", num_draws=6)
    whole, grouped = (FlowOptions(**sizes, draws_at_once=n).build(OBS, ACTION) for n in (None, 2))
    params = whole.init(jax.random.key(0))
    obs, action = (jax.random.normal(jax.random.key(k), (5, n)) for k, n in ((1, OBS), (2, ACTION)))
    evidence = whole.prepare(params, jax.random.key(3), obs, ())
    one, other = (policy.score(params, obs, action, evidence) for policy in (whole, grouped))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    weights = np.polynomial.legendre.leggauss(6)[1] / 2.0
    assert_allclose(one.bound, np.asarray(one.loss) @ weights, rtol=1e-5)


@pytest.mark.parametrize(("form", "measured"), [("velocity", "velocity"), ("eps", "eps"), ("elbo", "velocity")])
def test_the_meters_loss_is_trainings_and_the_velocitys_where_that_is_the_elbo(form, measured):
    assert FlowOptions(loss_form=form, draws="stratified").build(OBS, ACTION).cfm.form == measured
