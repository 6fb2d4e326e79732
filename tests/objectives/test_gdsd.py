"""GDSD: regression inside a trust region, nothing outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch, scores

from dipod_jax.objectives.gdsd import Gdsd


@pytest.mark.parametrize("kl_weight", [None, 0.3])
def test_value_and_gradient_equal_a_float64_formula(kl_weight):
    new, old, advantage = random_batch(scale=0.2)
    reference = old + 0.1

    def formula(n):
        d = np.clip(old - n, np.log(0.8), np.log(1.2))
        kl = 0.0 if kl_weight is None else kl_weight * 0.5 * (reference - n) ** 2
        return ((d - 0.05 * advantage[:, None]) ** 2 + kl).mean()

    objective = Gdsd(kl_weight=kl_weight)
    assert objective.needs_reference == (kl_weight is not None)
    given = new, old, advantage, None if kl_weight is None else reference
    assert_allclose(loss_of(objective, *given), formula(new), rtol=1e-5)
    assert_allclose(gradient_of(objective, *given), numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


def test_at_the_acting_parameters_the_gradient_is_two_psi_times_that_of_the_advantage_weighted_loss():
    _, old, advantage = random_batch()
    gradient = gradient_of(Gdsd(0.05), old, old, advantage)
    assert_allclose(gradient, 2 * 0.05 * np.repeat(advantage[:, None], 8, 1) / old.size, rtol=1e-5)


def test_the_regression_ends_at_its_target():
    """Descent inside the region goes to d = psi A, a minimum, and not on from there as a policy gradient would."""
    old, advantage = np.ones((2, 4)), np.array([1.0, -1.0])
    at_target = old - 0.05 * advantage[:, None]
    assert_allclose(gradient_of(Gdsd(0.05), at_target, old, advantage), np.zeros((2, 4)), atol=1e-7)
    beyond = gradient_of(Gdsd(0.05), old - 0.1 * advantage[:, None], old, advantage)
    assert_array_equal(np.sign(beyond), [[-1.0] * 4, [1.0] * 4])


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_there_is_no_gradient_outside_the_region_on_either_side(extreme):
    for sign in (-1.0, 1.0):
        assert_array_equal(gradient_of(Gdsd(), np.full((2, 4), extreme), np.ones((2, 4)), np.full(2, sign)), 0.0)


def test_a_sample_that_is_not_known_adds_nothing():
    new, old = scores([[jnp.nan], [1.0]]), scores([[1.0], [1.0]])
    loss = lambda known: Gdsd(0.05)(new._replace(known=known), old, None, jnp.array([5.0, 1.0]))[0]
    assert_allclose(jax.jit(loss)(new.known), 0.05**2 / 2, rtol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("clip_epsilon", 1.0), ("guidance", 0.0)])
def test_options_outside_their_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"--objective.{option.replace('_', '-')} {value} is not allowed"):
        Gdsd(**{option: value}).validate()
