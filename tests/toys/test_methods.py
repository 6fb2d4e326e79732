"""The library's objectives as weights of gradients of bounds, against the sums that the papers write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.spg import Spg
from dipod_jax.toys import methods
from dipod_jax.toys.bounds import Bounds
from dipod_jax.toys.methods import advantages, dipod_weights, gradient_cosine, proxy_weights
from dipod_jax.toys.options import PROXIES
from dipod_jax.toys.two_tokens import REWARDS

PROB = np.array([0.1, 0.2, 0.3, 0.4])
ADVANTAGE = np.array([0.5, -0.25, 0.0, -1.0])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def bounds():
    return Bounds(jnp.log(PROB), jnp.log(PROB) - jnp.array([0.1, 0.7, 0.2, 0.0]), jnp.log(PROB) + 0.3)


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("policy-gradient", {"log_prob": PROB * ADVANTAGE}),
        ("fpo", {"elbo": PROB * ADVANTAGE}),
        ("spg", {"elbo": PROB * [0.5, 0, 0, 0], "eubo": PROB * [0, -0.25, 0, -1.0]}),
    ],
)
def test_a_proxy_weighs_its_bound_by_probability_and_advantage(proxy, expected, bounds):
    ours = proxy_weights(PROXIES.index(proxy), bounds, jnp.asarray(ADVANTAGE))
    for name, values in ours._asdict().items():
        np.testing.assert_allclose(values, expected.get(name, np.zeros(4)), atol=1e-15)


def test_the_weights_follow_the_objective_that_stands_there(bounds, monkeypatch):
    """SPG's published mixture splits the weight of a bad sequence; without a ratio it is the same at new = old."""
    for ratio in ("clipped", "none"):
        members = (methods.OBJECTIVES[0], methods.Proxy(Fpo(), "elbo"), methods.Proxy(Spg(ratio=ratio), "elbo"))
        monkeypatch.setattr(methods, "OBJECTIVES", members)
        ours = proxy_weights(2, bounds, jnp.asarray(ADVANTAGE))
        np.testing.assert_allclose(ours.elbo, PROB * [0.5, -0.125, 0, -0.5], atol=1e-15)
        np.testing.assert_allclose(ours.eubo, PROB * [0, -0.125, 0, -0.5], atol=1e-15)


def test_the_regulariser_weighs_the_elbo_by_the_probability_it_samples_from(bounds):
    ours = dipod_weights(bounds, jnp.array([0.4, 0.3, 0.2, 0.1]))
    np.testing.assert_allclose(ours.elbo, [0.4, 0.3, 0.2, 0.1], atol=1e-15)
    np.testing.assert_array_equal([ours.log_prob, ours.eubo], np.zeros((2, 4)))


def test_the_cosine_is_minus_one_for_opposite_trees_and_zero_where_one_vanishes():
    tree = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    opposite = jax.tree.map(lambda x: -2 * x, tree)
    zero = jax.tree.map(jnp.zeros_like, tree)
    assert float(gradient_cosine(tree, opposite)) == pytest.approx(-1.0, abs=1e-15)
    assert float(gradient_cosine(tree, zero)) == 0.0


def test_the_advantages_of_the_uniform_policy_are_those_worked_by_hand():
    """Rewards .8 1 .7 1: mean .875, variance (.075^2 + 2 x .125^2 + .175^2) / 4 = .016875 -> deviation .1299038."""
    prob = jnp.full(4, 0.25)
    centred = np.array([-0.075, 0.125, -0.175, 0.125])
    for baseline in ("on-policy", "uniform"):
        np.testing.assert_allclose(advantages(prob, jnp.asarray(REWARDS), baseline), centred, atol=1e-15)
    ours = advantages(prob, jnp.asarray(REWARDS), "group-std")
    np.testing.assert_allclose(ours, centred / 0.1299038105676658, rtol=1e-9)
    with pytest.raises(ValueError, match="'mean' is unknown"):
        advantages(prob, jnp.asarray(REWARDS), "mean")
