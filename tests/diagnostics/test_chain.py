"""The likelihood of chains over a linear field, whose actions are Gaussian in closed form, and PolicyFlow's bias."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from chains import SMALL, acted, make
from numpy.testing import assert_allclose

from dipod_jax.bounds import gaussian_velocity
from dipod_jax.diagnostics import acting_std, chain_log_prob, chain_metrics, conditional_metrics
from dipod_jax.policies.flow_sde import DdimFlowOptions, FlowSdeOptions, NoisyFlowOptions
from dipod_jax.policies.terminal_noise import TerminalNoiseOptions

STD, D = 0.4, 2


def gaussian_chain(options, batch):
    """A chain over the optimal field of N(0, STD^2 I), paths of it, and the variances of its and the flow's action."""
    policy = options.build(1, D)
    policy.velocity = gaussian_velocity
    obs = jnp.zeros((batch, 1))
    noise = jax.random.normal(jax.random.key(0), (batch, options.num_steps + 1, D))
    _, path = policy.sample(STD, obs, noise)
    times = np.linspace(1, 0, options.num_steps + 1)
    t = times[:-1]
    field = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
    a, b, std = (np.float64(c) for c in policy.transitions)
    chain = flow = 1.0
    for k in range(options.num_steps):
        chain = (a[k] + b[k] * field[k]) ** 2 * chain + std[k] ** 2
        flow = (1 + (times[k + 1] - t[k]) * field[k]) ** 2 * flow
    return policy, obs, path, chain, flow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "num_draws", "width"),
    [
        (NoisyFlowOptions(num_steps=5, step_noise=0.05), 16, 0.05),
        (NoisyFlowOptions(num_steps=5, step_noise=0.2), 256, 0.1),
        (NoisyFlowOptions(num_steps=5, step_noise=0.5), 16, 0.1),
        (DdimFlowOptions(num_steps=10), 16, 1.0),
        (FlowSdeOptions(num_steps=10), 16, 1.0),
        (FlowSdeOptions(num_steps=5), 1024, 0.1),
        (DdimFlowOptions(num_steps=5), 1024, 0.1),
    ],
)
def test_a_chains_likelihood_is_bracketed_by_its_two_estimates(options, num_draws, width):
    policy, obs, path, variance, _ = gaussian_chain(options, 32)
    likelihood = jax.jit(partial(chain_log_prob, policy, num_draws=num_draws))
    found = likelihood(jnp.float32(STD), obs, path, jax.random.key(1))
    assert found.found.all()
    exact = scipy.stats.norm(0.0, np.sqrt(variance)).logpdf(np.float64(path[:, -1])).sum(-1)
    lower, upper = (np.float64(x) for x in found[:2])
    assert 0.0 < upper.mean() - lower.mean() < width
    assert_allclose(0.5 * (upper + lower).mean(), exact.mean(), atol=width)
    assert_allclose(0.5 * (upper + lower), exact, atol=10 * width)


def test_the_acting_spread_is_that_of_the_chain_and_not_of_its_flow():
    """Each of 200 states has 64 actions of one Gaussian: the mean of their standard deviations is within 1 %."""
    policy, *_, chain, flow = gaussian_chain(NoisyFlowOptions(num_steps=5, step_noise=0.15), 1)
    noise = jax.random.normal(jax.random.key(1), (64, 200, *policy.noise_shape))
    found = float(acting_std(policy.sample, jnp.float32(STD), jnp.zeros((200, 1)), noise))
    assert found == pytest.approx(np.sqrt(chain), rel=0.015) and found > 1.1 * np.sqrt(flow)


@pytest.mark.slow
def test_the_chain_is_as_far_from_the_flow_as_their_gaussians_are():
    policy, obs, path, chain, flow = gaussian_chain(NoisyFlowOptions(num_steps=5, step_noise=0.15), 2048)
    measure = jax.jit(partial(chain_metrics, policy, num_samples=2048, num_draws=32))
    metrics = measure(jnp.float32(STD), obs, path, jax.random.key(1))
    divergence = 0.5 * D * (chain / flow - 1 - np.log(chain / flow))
    assert divergence > 0.05
    assert_allclose(
        metrics["drift/chain_minus_flow"], divergence, atol=4 * float(metrics["drift/chain_minus_flow_se"]) + 0.01
    )
    assert metrics["drift/chain_log_prob"] < metrics["drift/chain_log_prob_upper"]
    assert metrics["drift/chain_found"] == 1.0


def test_two_log_probs_that_differ_by_a_factor_have_that_slope():
    params, weights = jnp.array([0.3, -1.0]), jax.random.normal(jax.random.key(0), (50, 2))
    advantage = jax.random.normal(jax.random.key(1), (50,))
    exact = lambda p: jnp.sin(weights @ p)
    metrics = conditional_metrics(params, lambda p: 2.0 * exact(p) + 5.0, exact, advantage)
    assert_allclose(list(metrics.values()), [1.0, 2.0, 1.0], rtol=1e-5)  # cosine, slope, correlation
    metrics = conditional_metrics(params, lambda p: -exact(p), exact, advantage)
    assert_allclose(list(metrics.values()), [-1.0, -1.0, -1.0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("num_steps", "exact"), [(1, True), (4, False)])
def test_policyflows_ratio_has_no_bias_with_one_step_and_some_with_four(num_steps, exact):
    policy, params = make(TerminalNoiseOptions(**(SMALL | {"num_steps": num_steps}), initial_noise=0.3))
    obs, action, _, evidence = acted(policy, params, (64,))
    advantage = jax.random.normal(jax.random.key(4), (64,))
    measure = jax.jit(lambda p: conditional_metrics(*policy.given_noise(p, obs, action, evidence), advantage))
    found = measure(params)
    bias = np.abs(np.array([float(x) for x in found.values()]) - 1.0)
    if exact:
        assert_allclose(bias, 0.0, atol=1e-4)
    else:
        assert (bias > 1e-4).all()
