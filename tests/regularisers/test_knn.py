"""The nearest-neighbour entropy of a flow's predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from score_batches import field_scores, scores

from dipod_jax.config import Config
from dipod_jax.objectives.ppo import Ppo
from dipod_jax.options import override
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.gaussian import GaussianOptions
from dipod_jax.regularisers import Terms
from dipod_jax.regularisers.knn import KnnEntropy, knn_entropy


def test_the_entropy_of_three_points_on_a_line_by_hand():
    points = jnp.float32([[0.0], [1.0], [3.0]])
    # nearest at 1, 1, 2; second nearest at 3, 2, 3; psi(3) - psi(1) = 1 + 1/2, psi(3) - psi(2) = 1/2; a ball is 2 long
    assert_allclose(knn_entropy(points, 1), 1.5 + np.log(2) + np.log(2) / 3, rtol=1e-5)
    assert_allclose(knn_entropy(points, 2), 0.5 + np.log(2) + np.log(18) / 3, rtol=1e-5)


def test_the_entropy_of_many_normal_samples_is_that_of_the_normal_distribution():
    points = 0.3 * jax.random.normal(jax.random.key(0), (500, 2))
    expected = np.log(2 * np.pi * np.e * 0.3**2)
    assert_allclose([knn_entropy(points, k) for k in (1, 4)], expected, atol=0.15)


def test_descent_pushes_predictions_apart_and_equal_ones_have_a_finite_gradient():
    old = scores(np.zeros((1, 3)))
    term = lambda p: KnnEntropy(0.5)(Terms(old._replace(field=field_scores(p, denoised=p)), old, None, None))
    apart, equal = jax.jit(jax.vmap(jax.grad(term)))(jnp.float32([[[[0.0], [1.0], [3.0]]], [[[2.0], [2.0], [2.0]]]]))
    # d/dx of -.5 mean log rho: the first two are each other's nearest, the third's nearest is the second
    assert_allclose(apart[0, :, 0], -0.5 / 3 * np.array([-2.0, 2.0 - 0.5, 0.5]), rtol=1e-5)
    np.testing.assert_array_equal(equal, 0.0)


def test_a_policys_predictions_are_its_action_where_its_velocity_points_from_there_to_the_noise():
    policy = FlowOptions((4,), num_draws=2, draws="monte-carlo").build(3, 2)
    params, obs, action = policy.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.full((4, 2), 0.3)
    draws = policy.prepare(params, jax.random.key(1), obs, ())
    found = jax.jit(policy.score)(params, obs, action, draws)
    assert found.field.denoised.shape == (4, 2, 2) and found.kept().field.denoised is None
    # v = eps - a is exact: then a is predicted, and an error of v is one of t times it
    exact = draws.eps - action[:, None]
    error = -draws.t[..., None] * (found.field.velocity - exact)
    assert_allclose(found.field.denoised - action[:, None], error, atol=1e-5)


def test_it_is_refused_over_a_policy_without_predictions_and_with_too_few_draws():
    with pytest.raises(ValueError, match=r"--regularisers.knn.weight 0.1 .* the objective ppo: .* no velocity field"):
        override(Config(Ppo(), GaussianOptions()), {"regularisers.knn.weight": 0.1})
    with pytest.raises(ValueError, match=r"--regularisers.knn.neighbour 8 .*: less than policy.num-draws = 8"):
        override(Config(), {"regularisers.knn.weight": 0.1, "regularisers.knn.neighbour": 8})
    with pytest.raises(ValueError, match=r"--regularisers.knn.neighbour 0"):
        override(Config(), {"regularisers.knn.neighbour": 0})
    assert not override(Config(), {"regularisers.knn.weight": 0.1}).needs_reference
