"""The flow scored by its exact likelihood, against scipy's root of the whole sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from numpy_networks import ACTION, OBS, SMALL, batch, numpy_velocity

from dipod_jax.policies.exact_flow import ExactFlowOptions
from dipod_jax.policies.flow import FlowOptions


@pytest.fixture(scope="module")
def exact():
    policy = ExactFlowOptions(**SMALL).build(OBS, ACTION)
    return policy, jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))


@pytest.mark.slow
def test_the_exact_loss_is_the_density_of_the_samplers_image_under_moved_parameters(exact):
    """Against scipy's root of the whole sampler and a Jacobian by finite differences, in float64 numpy."""
    policy, params = exact
    obs, noise, _ = batch((2, 3))
    obs32, noise32 = jnp.float32(obs), jnp.float32(noise)
    action, trace = policy.sample(params, obs32, noise32)
    evidence = policy.prepare(params, jax.random.key(0), obs32, trace)
    moved = jax.tree.map(lambda x: 1.05 * x, params)
    loss = jax.jit(policy.score)(moved, obs32, action, evidence).loss
    assert loss.shape == (2, 3, 1)

    def act(x, o):
        for t in (1.0, 0.75, 0.5, 0.25):
            x = x - 0.25 * numpy_velocity(moved, o, x, np.float64(t), policy.options)
        return x

    for index in np.ndindex(2, 3):
        o, target = obs[index], np.float64(action[index])
        root = scipy.optimize.fsolve(lambda x, o=o, target=target: act(x, o) - target, noise[index], xtol=1e-12)
        columns = [(act(root + h, o) - act(root - h, o)) / 2e-6 for h in 1e-6 * np.eye(ACTION)]
        log_prob = scipy.stats.norm.logpdf(root).sum() - np.linalg.slogdet(np.array(columns))[1]
        assert_allclose(-loss[index][0], log_prob, atol=1e-3)


@pytest.mark.slow
def test_the_bound_beside_the_exact_likelihood_is_the_cfm_loss_on_draws_of_its_own(exact):
    policy, params = exact
    obs, noise, _ = map(jnp.float32, batch())
    action, trace = policy.sample(params, obs, noise)
    scores = policy.score(params, obs, action, policy.prepare(params, jax.random.key(3), obs, trace))
    plain = FlowOptions(**SMALL).build(OBS, ACTION)
    draws = plain.prepare(params, jax.random.key(3), obs, noise)
    assert_allclose(scores.bound, plain.score(params, obs, action, draws).loss.mean(-1), rtol=1e-6)
    assert scores.bound.shape == (7,) and scores.loss.shape == (7, 1)


def test_the_exact_loss_is_not_known_where_no_noise_leads_to_the_action(exact):
    policy, params = exact
    obs, noise, _ = map(jnp.float32, batch())

    @jax.jit
    def score_one_of_no_noise(params, obs, noise):
        action, trace = policy.sample(params, obs, noise)
        action = action.at[2].set(jnp.inf)
        return policy.score(params, obs, action, policy.prepare(params, jax.random.key(0), obs, trace))

    scores = score_one_of_no_noise(params, obs, noise)
    assert_array_equal(scores.known[:, 0], np.arange(7) != 2)
    assert scores.loss[2, 0] == 0.0
