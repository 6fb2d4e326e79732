"""Chains of Gaussian steps against brute-force numpy sums and the deterministic sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from chains import ACTION, OBS, SMALL, acted, make, moved
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.bounds import gaussian_velocity, integrate
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.flow_sde import DdimFlowOptions, FlowSdeOptions, NoisyFlowOptions
from dipod_jax.presets import make_config

FAMILIES = [NoisyFlowOptions, FlowSdeOptions, DdimFlowOptions]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def chain(request):
    return make(request.param(**SMALL))


def numpy_means(policy, params, obs, path):
    """Means of the next states (B, K, d), one Euler velocity at a time."""
    a, b, _ = (np.float64(x) for x in policy.transitions)
    means = []
    for k in range(4):
        velocity = policy.velocity(params, obs, path[:, k], jnp.full(len(path), policy.times[k]))
        means.append(a[k] * np.float64(path[:, k]) + b[k] * np.float64(velocity))
    return np.stack(means, 1)


@pytest.mark.slow
def test_the_path_takes_the_noise_it_is_given(chain):
    policy, params = chain
    keys = jax.random.split(jax.random.key(3))
    obs, noise = jax.random.normal(keys[0], (7, OBS)), jax.random.normal(keys[1], (7, 5, ACTION))
    action, path = jax.jit(policy.sample)(params, obs, noise)
    assert path.shape == (7, 5, ACTION)
    assert_array_equal(path[:, 0], noise[:, 0])
    assert_array_equal(path[:, -1], action)
    std = np.float64(policy.transitions.std)[:, None]
    assert_allclose(path[:, 1:], numpy_means(policy, params, obs, path) + std * noise[:, 1:], atol=1e-5)


def test_a_step_is_scored_by_the_density_of_its_gaussian_under_moved_parameters(chain):
    policy, params = chain
    obs, action, path, evidence = acted(policy, params)
    scores = jax.jit(policy.score)(moved(params), obs, action, evidence)
    means = numpy_means(policy, moved(params), obs, path)
    normal = scipy.stats.norm(means, np.float64(policy.transitions.std)[:, None])
    assert scores.loss.shape == (7, 4)
    assert_allclose(scores.loss, -normal.logpdf(np.float64(path[:, 1:])).sum(-1), rtol=1e-4, atol=1e-3)
    assert_allclose(path[:, :-1] + scores.steps.move, means, atol=1e-5)


@pytest.mark.slow
def test_the_bound_beside_a_chain_is_the_cfm_loss_at_its_action(chain):
    policy, params = chain
    obs, action, _, evidence = acted(policy, params)
    scores = policy.score(params, obs, action, evidence)
    plain = FlowOptions(**SMALL).build(OBS, ACTION)
    assert_allclose(scores.bound, plain.score(params, obs, action, evidence.draws).bound, rtol=1e-6)


def test_noise_of_zero_gives_one_action_a_state(chain):
    policy, params = chain
    obs = jnp.tile(jnp.linspace(-1, 1, OBS), (3, 1))
    action, _ = policy.sample(params, obs, jnp.zeros((3, 5, ACTION)))
    assert_array_equal(action[0], action[1])
    assert jnp.abs(action).max() > 0.0


@pytest.mark.parametrize("sampler", ["euler", "midpoint", "heun"])
def test_constant_noise_of_nearly_nothing_is_the_flow_by_any_sampler(sampler):
    policy, params = make(NoisyFlowOptions(**SMALL, sampler=sampler, step_noise=1e-6))
    obs, action, path, _ = acted(policy, params)
    flow = FlowOptions(**SMALL, sampler=sampler).build(OBS, ACTION)
    assert_allclose(action, flow.sample(params, obs, path[:, 0])[0], atol=1e-4)


@pytest.mark.slow
def test_the_ends_are_a_noise_that_the_deterministic_sampler_carries_to_the_action(chain):
    policy, params = chain
    obs, action, path, _ = acted(policy, params, (2, 3))
    noise, end = policy.ends(params, obs, action, path)
    assert noise.shape == (2, 3, ACTION)
    assert_array_equal(end, action)
    field = lambda x, t: policy.velocity(params, obs, x, t)
    assert_allclose(integrate(field, noise, policy.times, method="euler"), action, atol=1e-3)
    unreachable = action.at[1, 2].set(jnp.inf)
    missing = jnp.isnan(policy.ends(params, obs, unreachable, path)[0]).any(-1)
    assert_array_equal(missing, np.arange(6).reshape(2, 3) == 5)


@pytest.mark.slow
def test_sampling_the_sde_of_a_gaussian_target_gives_the_target(monkeypatch):
    """Flow-GRPO's steps over the optimal field of N(0, .3^2): 256 steps, 40,000 samples; constant noise adds to it."""
    spread = {}
    for family in (FlowSdeOptions, NoisyFlowOptions):
        policy = family(**(SMALL | {"num_steps": 256})).build(1, 1)
        monkeypatch.setattr(policy, "velocity", gaussian_velocity)
        noise = jax.random.normal(jax.random.key(0), (40_000, 257, 1))
        spread[family] = float(jnp.std(policy.sample(0.3, jnp.zeros((40_000, 1)), noise)[0]))
    assert_allclose(spread[FlowSdeOptions], 0.3, rtol=0.02)  # the standard error is .35 %
    assert spread[NoisyFlowOptions] > 0.4


@pytest.mark.parametrize("preset", ["cpu", "paper", "smoke"])
@pytest.mark.parametrize("name", ["ddpo", "flow-grpo"])
def test_the_steps_of_a_preset_do_not_widen_the_marginals(name, preset, monkeypatch):
    """Standard deviation of the action over that of the target, N(0, target^2) under its optimal field."""
    policy = make_config(preset, "BallInCup", name, "native")[0].policy.build(1, 1)
    monkeypatch.setattr(policy, "velocity", gaussian_velocity)
    for target in (0.1, 0.3, 1.0):
        ones = jnp.ones((len(policy.times) - 1, 1))
        path_steps = policy.step(target, ones, ones, policy.times[:-1], policy.times[1:], policy.transitions)
        variance = 1.0
        for move, std in zip(np.float64(path_steps.move), np.float64(path_steps.std), strict=True):
            variance = float((1.0 + move[0]) ** 2 * variance + std[0] ** 2)  # the steps are linear in the state
        assert 0.7 < np.sqrt(variance) / target < 1.0


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (FlowSdeOptions(sampler="midpoint"), "policy.sampler"),
        (DdimFlowOptions(sampler="heun"), "policy.sampler"),
        (NoisyFlowOptions(step_noise=0.0), "policy.step-noise"),
        (FlowSdeOptions(noise_level=-1.0), "policy.noise-level"),
        (FlowSdeOptions(num_steps=1), "policy.num-steps"),
        (DdimFlowOptions(eta=1.5), "policy.eta"),
        (DdimFlowOptions(noise_floor=0.0), "policy.noise-floor"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, flag):
    with pytest.raises(ValueError, match=f"--{flag} .* is not allowed"):
        options.validate()
