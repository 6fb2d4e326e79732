"""The flow with terminal noise: exact at one Euler step, its density, its regulariser, its ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from chains import ACTION, OBS, SMALL, acted, make, moved
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.terminal_noise import TerminalNoiseOptions


@pytest.fixture(scope="module")
def policy_and_params():
    return make(TerminalNoiseOptions(**SMALL, initial_noise=0.3))


def test_the_action_is_the_flows_end_and_noise_of_the_parameters_spread(policy_and_params):
    policy, params = policy_and_params
    obs = jax.random.normal(jax.random.key(0), (7, OBS))
    noise = jax.random.normal(jax.random.key(1), (7, 2, ACTION))
    action, trace = policy.sample(params, obs, noise)
    flow = FlowOptions(**SMALL).build(OBS, ACTION)
    end, _ = flow.sample(params["field"], obs, noise[:, 0])
    std = 0.3 * np.exp(0.1)  # the log is moved by .1
    assert_allclose(action, end + std * noise[:, 1], rtol=1e-5)
    for found, expected in zip(policy.ends(params, obs, action, trace), (noise[:, 0], end), strict=True):
        assert_allclose(found, expected, rtol=1e-6)
    at_zero, _ = policy.sample(params, obs, jnp.zeros((7, 2, ACTION)))
    assert_allclose(at_zero, flow.sample(params["field"], obs, jnp.zeros((7, ACTION)))[0], rtol=1e-5)


def test_with_one_euler_step_the_score_is_the_exact_density_given_the_base_noise():
    policy, params = make(TerminalNoiseOptions(**(SMALL | {"num_steps": 1}), initial_noise=0.3))
    obs, action, trace, evidence = acted(policy, params)
    assert_array_equal(evidence.draws.t, 1.0)
    new = moved(params, 1.3)
    scores = policy.score(new, obs, action, evidence)
    end = policy.endpoint(new, obs, trace.base_noise)
    assert jnp.abs(end - trace.endpoint).max() > 0.05  # or there is nothing to see
    exact = -scipy.stats.norm(np.float64(end), np.float64(policy.std(new))).logpdf(np.float64(action)).sum(-1)
    assert_allclose(scores.loss, np.broadcast_to(exact[:, None], (7, 6)), rtol=1e-4, atol=1e-4)


def test_with_several_steps_it_is_not_exact(policy_and_params):
    policy, params = policy_and_params
    obs, action, trace, evidence = acted(policy, params)
    new = moved(params, 1.3)
    end = policy.endpoint(new, obs, trace.base_noise)
    exact = -scipy.stats.norm(np.float64(end), np.float64(policy.std(new))).logpdf(np.float64(action)).sum(-1)
    assert np.abs(policy.score(new, obs, action, evidence).mean() - exact).max() > 0.01


def test_the_score_is_the_density_of_the_noise_shifted_by_the_change_of_velocity(policy_and_params):
    policy, params = policy_and_params
    obs, action, trace, evidence = acted(policy, params)
    new = moved(params, 1.3)
    scores = policy.score(new, obs, action, evidence)
    losses, brownian = np.zeros((7, 6)), np.zeros((7, 6))
    for b, n in np.ndindex(7, 6):
        t = evidence.draws.t[b, n]
        x = (1 - t) * trace.endpoint[b] + t * trace.base_noise[b]
        v_new, v_old = (np.float64(policy.velocity(p, obs[b], x, t)) for p in (new, params))
        noise = np.float64(trace.noise[b]) + v_new - v_old
        losses[b, n] = -scipy.stats.norm(0.0, np.float64(policy.std(new))).logpdf(noise).sum()
        brownian[b, n] = np.square(float(t) * v_new + np.float64(x) + (1 - float(t)) * v_old).mean()
    assert_allclose(scores.loss, losses, rtol=1e-4, atol=1e-4)
    assert_allclose(scores.penalty, brownian.mean(-1), rtol=1e-4)
    # the steps' KL(old || new) is the closed form with the shift u (methods of PolicyFlow's rate)
    old = policy.score(params, obs, action, evidence)
    std, std_old = np.float64(policy.std(new)), np.float64(policy.std(params))
    u = np.float64(old.steps.move) - np.float64(scores.steps.move)
    kl = (np.log(std / std_old) + (std_old**2 + u**2) / (2 * std**2) - 0.5).sum(-1)
    assert_allclose(old.steps.divergence(scores.steps), kl, rtol=1e-3, atol=1e-5)


def test_the_bound_is_the_cfm_loss_of_the_flows_own_end(policy_and_params):
    policy, params = policy_and_params
    obs, action, trace, evidence = acted(policy, params)
    flow = FlowOptions(**SMALL).build(OBS, ACTION)
    expected = flow.score(params["field"], obs, trace.endpoint, evidence.draws).bound
    assert_allclose(policy.score(params, obs, action, evidence).bound, expected, rtol=1e-5)


def test_the_noise_stays_within_its_bounds():
    policy, params = make(TerminalNoiseOptions(**SMALL))
    assert_allclose(policy.std(params | {"log_std": jnp.array([-9.0, 0.0, 9.0])}), np.exp([-5.0, 0.0, 2.0]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"--policy\.initial-noise .* is not allowed"):
        TerminalNoiseOptions(initial_noise=0.001).validate()
