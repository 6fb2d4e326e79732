"""GenPO's objective by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import SMALL, acted, assert_first_ratio_is_one, make, moved, numpy_clip
from numpy.testing import assert_allclose
from score_batches import assert_clipped_and_not, assert_value_and_gradient, random_batch

from dipod_jax.objectives.genpo import Genpo
from dipod_jax.policies.coupled_flow import CoupledFlowOptions


@pytest.mark.slow
def test_the_ratio_is_that_of_the_noises_squared_norms_and_needs_no_determinant():
    policy, params = make(CoupledFlowOptions(**SMALL))
    obs, action, pair, evidence = acted(policy, params)
    new_params = moved(params)
    old, new = (policy.score(p, obs, action, evidence) for p in (params, new_params))
    advantage = np.random.default_rng(0).standard_normal(7)
    w_old, w_new = (np.float64(policy.inverse(p, obs, pair)) for p in (params, new_params))
    log_ratio = 0.5 * (np.square(w_old) - np.square(w_new)).sum((1, 2))
    expected = np.mean([numpy_clip(r, a, 0.2) for r, a in zip(log_ratio, advantage, strict=True)])
    expected += 0.3 * np.mean(np.float64(new.penalty))
    loss, _ = Genpo(compression_weight=0.3)(new, old, None, jnp.float32(advantage))
    assert_allclose(loss, expected, rtol=1e-4)


def test_its_gradient_is_that_of_the_formula_where_ratios_are_clipped_and_where_not():
    loss, old, advantage = random_batch(num_draws=1, scale=0.3)
    assert_clipped_and_not((old - loss)[:, 0], advantage, 0.2)

    def formula(loss, penalty):
        return np.vectorize(numpy_clip)((old - loss)[:, 0], advantage, 0.2).mean() + 0.3 * penalty.mean()

    new = {"loss": loss, "penalty": np.random.default_rng(1).uniform(0.0, 2.0, 64)}
    assert_value_and_gradient(Genpo(compression_weight=0.3), formula, new, {"loss": old}, advantage)


@pytest.mark.slow
def test_the_first_ratio_is_one_and_good_actions_become_likelier():
    assert_first_ratio_is_one(Genpo(compression_weight=0.0), *make(CoupledFlowOptions(**SMALL)))


@pytest.mark.slow
def test_the_penalty_brings_the_halves_of_new_pairs_together():
    policy, params = make(CoupledFlowOptions(**SMALL, output_scale=1.0))
    obs, action, _, evidence = acted(policy, params, (256,))
    old = policy.score(params, obs, action, evidence)

    def loss(p):
        scores = policy.score(p, obs, action, evidence)
        return Genpo(compression_weight=1.0)(scores, old, None, jnp.zeros(256))[0]

    step = jax.tree.map(lambda p, g: p - 1e-2 * g, params, jax.grad(loss)(params))
    other = acted(policy, params, (256,), seed=2)
    distance = lambda p: policy.score(p, other[0], other[1], other[3]).penalty.mean()
    assert distance(step) < distance(params)
