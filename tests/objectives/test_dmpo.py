"""DMPO and wd1: weights of a softmax, and a weighted likelihood without end unless it is stopped."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import assert_on_all_sides, gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.dmpo import Dmpo


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("reference_weight", [None, 0.5])
@pytest.mark.parametrize("clamp", [None, 1.1])
def test_value_and_gradient_equal_a_float64_formula(reference_weight, clamp):
    new, old, advantage = random_batch()
    reference = old + 0.5 * np.random.default_rng(1).standard_normal(old.shape)
    shift = 0.0 if reference_weight is None else reference_weight * (old - reference).mean(-1)
    # log pi_ref - log pi_cur = l_cur - l_ref; neither has a gradient
    weight = softmax(shift + advantage / 0.7) - 0.9 * softmax(shift - advantage / 0.7)
    for of_one_sign in (weight < 0.0, weight > 0.0):
        assert_on_all_sides(new.mean(-1)[of_one_sign], 1.1)
    highest = np.where((weight < 0.0) & (clamp is not None), clamp or 0.0, np.inf)
    formula = lambda n: (weight * np.minimum(n.mean(-1), highest)).sum()
    objective = Dmpo(0.7, 0.9, reference_weight, clamp)
    assert objective.needs_reference == (reference_weight is not None)
    given = new, old, advantage, None if reference_weight is None else reference
    assert_allclose(loss_of(objective, *given), formula(new), rtol=1e-4)
    assert_allclose(gradient_of(objective, *given), numerical_gradient(formula, new), rtol=1e-3, atol=1e-8)


def test_for_small_advantages_the_gradient_is_twice_that_of_the_advantage_weighted_loss():
    _, old, advantage = random_batch()
    advantage = 1e-3 * (advantage - advantage.mean())
    expected = 2 * np.repeat(advantage[:, None], 8, 1) / old.size
    assert_allclose(gradient_of(Dmpo(), old, old, advantage), expected, atol=1e-2 * np.abs(expected).max())


def test_the_shape_of_the_batch_does_not_matter():
    new, old, advantage = random_batch()
    folded = (x.reshape(4, 16, *x.shape[1:]) for x in (new, old, advantage))
    assert_allclose(loss_of(Dmpo(), *folded), loss_of(Dmpo(), new, old, advantage), rtol=1e-5)


def test_equal_advantages_are_no_loss():
    new, old, _ = random_batch()
    assert loss_of(Dmpo(), new, old, np.full(64, 3.0)) == 0.0
    assert_array_equal(gradient_of(Dmpo(), new, old, np.full(64, 3.0)), 0.0)


def test_a_bad_sample_above_the_clamp_takes_no_part_and_a_good_one_does():
    new, old, advantage = np.array([[1.0, 1.0], [9.0, 9.0], [9.0, 9.0]]), np.ones((3, 2)), np.array([-1.0, -1.0, 2.0])
    gradient = gradient_of(Dmpo(negative_loss_clamp=3.0), new, old, advantage)
    assert_array_equal(gradient.any(-1), [True, False, True])
    assert gradient_of(Dmpo(), new, old, advantage).any(-1).all()
