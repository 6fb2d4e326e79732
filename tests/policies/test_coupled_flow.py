"""The coupled flow: its inverse, its constant determinant, its density by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from chains import ACTION, OBS, SMALL, acted, make, moved
from numpy.testing import assert_allclose

from dipod_jax.bounds import integrate
from dipod_jax.policies.coupled_flow import CoupledFlowOptions


@pytest.fixture(scope="module", params=[0.95, 0.7, 1.0])
def coupled(request):
    return make(CoupledFlowOptions(**SMALL, output_scale=1.0, mixing=request.param))


def numpy_forward(policy, params, obs, w):
    """The published step with noise at 0, in float64 outside the network: v_port = -v at 1 - t."""
    z, y = np.float64(w)
    p = policy.mixing
    for k in range(4):
        port = lambda x, k=k: -np.float64(policy.velocity(params, obs, jnp.float32(x), jnp.float32(1 - k / 4)))
        z = z + port(y) / 4
        y = y + port(z) / 4
        z = p * z + (1 - p) * y
        y = p * y + (1 - p) * z
    return np.stack([z, y])


def test_the_pair_is_that_of_the_published_steps_and_the_action_its_mean(coupled):
    policy, params = coupled
    obs = jax.random.normal(jax.random.key(0), (3, OBS))
    noise = jax.random.normal(jax.random.key(1), (3, 2, ACTION))
    action, pair = policy.sample(params, obs, noise)
    expected = np.stack([numpy_forward(policy, params, obs[b], noise[b]) for b in range(3)])
    assert_allclose(pair, expected, atol=1e-5)
    assert_allclose(action, expected.mean(1), atol=1e-5)


def test_the_inverse_undoes_the_sampler_to_rounding(coupled):
    policy, params = coupled
    obs = jax.random.normal(jax.random.key(0), (512, OBS))
    noise = jax.random.normal(jax.random.key(1), (512, 2, ACTION))
    found = policy.inverse(params, obs, policy.forward(params, obs, noise))
    # rounding of 6e-8, enlarged by 1 / p^2 a step
    assert_allclose(found, noise, atol=1e-6 * policy.mixing**-8 * 2)


@pytest.mark.slow
def test_the_log_determinant_is_the_constant_in_any_state_under_any_parameters(coupled):
    policy, params = coupled
    for seed, scale in ((0, 1.0), (1, 1.5), (2, -1.0)):
        obs, noise = jax.random.normal(jax.random.key(seed), (OBS,)), jax.random.normal(jax.random.key(9), (6,))
        flat = lambda w, s=scale, o=obs: policy.forward(moved(params, s), o, w.reshape(2, ACTION)).reshape(-1)
        log_det = np.linalg.slogdet(np.float64(jax.jacfwd(flat)(noise)))[1]
        assert_allclose(log_det, policy.log_det, atol=1e-5)
    assert_allclose(policy.log_det, 2 * ACTION * 4 * np.log(policy.mixing), rtol=1e-12)


@pytest.mark.slow
def test_the_score_is_the_density_of_the_pair_under_moved_parameters(coupled):
    """Against scipy's root of the forward map and a Jacobian by finite differences."""
    policy, params = coupled
    obs, action, pair, evidence = acted(policy, params, (2,))
    new = moved(params, 1.05)
    scores = policy.score(new, obs, action, evidence)
    assert scores.loss.shape == (2, 1)
    for b in range(2):
        image = lambda w, b=b: numpy_forward(policy, new, obs[b], w.reshape(2, ACTION)).reshape(-1)
        target = np.float64(pair[b]).reshape(-1)
        start = np.float64(policy.inverse(params, obs[b], pair[b])).reshape(-1)
        root = scipy.optimize.fsolve(lambda w: image(w) - target, start, epsfcn=1e-5)  # noqa: B023
        jacobian = np.stack([(image(root + h) - image(root - h)) / 2e-3 for h in 1e-3 * np.eye(6)], 1)
        log_prob = scipy.stats.norm.logpdf(root).sum() - np.linalg.slogdet(jacobian)[1]
        assert_allclose(-scores.loss[b, 0], log_prob, atol=5e-3)


@pytest.mark.slow
def test_the_penalty_is_the_distance_of_a_fresh_pairs_halves_and_finite_where_they_meet():
    policy, params = make(CoupledFlowOptions(**SMALL))
    obs, action, _, evidence = acted(policy, params)
    z, y = np.moveaxis(np.float64(policy.forward(params, obs, evidence.fresh)), 1, 0)
    assert_allclose(policy.score(params, obs, action, evidence).penalty, np.linalg.norm(z - y, axis=-1), rtol=1e-5)
    still = jax.tree.map(jnp.zeros_like, params)
    same = evidence._replace(fresh=jnp.ones_like(evidence.fresh))
    gradient = jax.grad(lambda p: policy.score(p, obs, action, same).penalty.sum())(still)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_noise_of_zero_gives_one_action_a_state():
    policy, params = make(CoupledFlowOptions(**SMALL))
    obs = jnp.tile(jnp.linspace(-1, 1, OBS), (3, 1))
    action, _ = policy.sample(params, obs, jnp.zeros((3, 2, ACTION)))
    assert_allclose(action[0], action[1])
    assert jnp.abs(action).max() > 0.0


def test_the_ends_are_those_of_the_plain_flow_of_the_same_field():
    policy, params = make(CoupledFlowOptions(**SMALL))
    obs, action, pair, _ = acted(policy, params)
    noise, end = policy.ends(params, obs, action, pair)
    field = lambda x, t: policy.velocity(params, obs, x, t)
    assert_allclose(integrate(field, noise, policy.times, method="euler"), end, atol=1e-3)


def test_a_mixing_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match=r"--policy\.mixing 0\.2 is not allowed"):
        CoupledFlowOptions(mixing=0.2).validate()
