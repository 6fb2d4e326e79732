"""GDPO: ratios of quadratures, over a flow whose draws lie at Gauss-Legendre nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import numpy_clip
from numpy.testing import assert_allclose
from score_batches import (
    assert_clipped_and_not,
    assert_value_and_gradient,
    numerical_gradient,
    random_batch,
    scores,
)

from dipod_jax.objectives.gdpo import Gdpo
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.presets import make_config

# Gauss-Legendre on [0, 1] for N = 3, as tabulated
NODES, WEIGHTS = np.array([0.1127016654, 0.5, 0.8872983346]), np.array([5, 8, 5]) / 18


@pytest.mark.slow
def test_the_ratio_is_of_weighted_sums_and_the_gradient_of_a_draw_has_its_weight():
    new, old, advantage = random_batch(num_draws=3, scale=0.8)

    def formula(n):
        rho = np.exp(old @ WEIGHTS - n @ WEIGHTS)
        return -np.minimum(rho * advantage, np.clip(rho, 0.5, 1.5) * advantage).mean()

    weight = jnp.float32(WEIGHTS)
    loss = lambda n: Gdpo()(scores(n, weight=weight), scores(old, weight=weight), None, jnp.float32(advantage))[0]
    value, gradient = jax.value_and_grad(loss)(jnp.float32(new))
    assert_allclose(value, formula(new), rtol=1e-5)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)
    # k3 where it has a weight: over the same quadrature
    over = Gdpo(kl_weight=0.3)
    d = (old - new) @ WEIGHTS
    with_kl = over(scores(new, weight=weight), scores(old, weight=weight), scores(old, weight=weight), jnp.zeros(64))[0]
    assert_allclose(with_kl, 0.3 * np.mean(np.exp(-d) - 1 + d), rtol=1e-4)


def test_its_gradient_is_that_of_the_formula_where_ratios_are_clipped_and_where_not_with_a_k3_of_weighted_sums():
    new, old, advantage = random_batch(num_draws=3, scale=0.8)
    reference = old + 0.5 * np.random.default_rng(1).standard_normal(old.shape)
    assert_clipped_and_not((old - new) @ WEIGHTS, advantage, 0.3)

    def formula(loss):
        d = (reference - loss) @ WEIGHTS
        surrogate = np.vectorize(numpy_clip)((old - loss) @ WEIGHTS, advantage, 0.3)
        return (surrogate + 0.7 * (np.exp(-d) - 1 + d)).mean()

    batch = {"loss": new}, {"loss": old}, advantage, {"loss": reference}
    assert_value_and_gradient(Gdpo(0.3, 0.3, kl_weight=0.7), formula, *batch, weight=WEIGHTS)


def test_a_flow_at_the_nodes_scores_with_the_weights_of_the_quadrature():
    policy = FlowOptions(hidden_sizes=(8,), num_draws=3, draws="gauss-legendre").build(2, 4)

    @jax.jit
    def run(key):
        obs, action, params = jnp.zeros((5, 2)), jnp.ones((5, 4)), policy.init(key)
        return policy.score(params, obs, action, policy.prepare(params, key, obs, ()))

    found = run(jax.random.key(0))
    assert_allclose(found.field.time, np.broadcast_to(NODES, (5, 3)), rtol=1e-6)
    assert_allclose(found.weight, WEIGHTS, rtol=1e-6)
    assert_allclose(found.bound, found.loss @ WEIGHTS, rtol=1e-5)
    assert_allclose(found.mean(), found.bound, rtol=1e-6)


def test_its_presets_take_three_nodes():
    for preset in ("paper", "cpu", "smoke"):
        config = make_config(preset, "BallInCup", "gdpo", "native")[0]
        assert (config.policy.draws, config.policy.num_draws, config.needs_reference) == ("gauss-legendre", 3, False)
