"""wd1: weighted likelihoods of a batch, good and bad, without a ratio."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import assert_on_all_sides, gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.dmpo import Dmpo
from dipod_jax.objectives.wd1 import Wd1
from dipod_jax.presets import make_config


@pytest.mark.parametrize("weights", ["both", "positive"])
@pytest.mark.parametrize("clamp", [None, 1.1])
def test_value_and_gradient_equal_a_float64_formula(weights, clamp):
    new, old, advantage = random_batch()
    up, down = np.exp(advantage), np.exp(-advantage)
    weight = up / up.sum() - (down / down.sum() if weights == "both" else 0.0)
    for of_one_sign in (advantage < 0.0, advantage > 0.0):
        assert_on_all_sides(new.mean(-1)[of_one_sign], 1.1)
    highest = np.where((weight < 0.0) & (clamp is not None), clamp or 0.0, np.inf)
    formula = lambda n: (weight * np.minimum(n.mean(-1), highest)).sum()
    objective = Wd1(weights, clamp)
    assert_allclose(loss_of(objective, new, old, advantage), formula(new), rtol=1e-4)
    assert_allclose(gradient_of(objective, new, old, advantage), numerical_gradient(formula, new), rtol=1e-3, atol=1e-8)


def test_it_is_dmpo_at_temperature_one_without_a_reference():
    batch = random_batch()
    assert_array_equal(loss_of(Wd1(), *batch), loss_of(Dmpo(), *batch))


def test_equal_rewards_are_no_loss_but_for_positive_weights_alone():
    new, old, _ = random_batch()
    assert loss_of(Wd1(), new, old, np.zeros(64)) == 0.0
    assert_allclose(loss_of(Wd1("positive"), new, old, np.zeros(64)), new.mean(), rtol=1e-5)


def test_the_old_policy_has_no_part_in_it():
    new, old, advantage = random_batch()
    assert_array_equal(loss_of(Wd1(), new, old, advantage), loss_of(Wd1(), new, old + 5.0, advantage))


def test_a_bad_sample_above_the_clamp_takes_no_part():
    new, advantage = np.array([[1.0], [9.0], [9.0]]), np.array([-1.0, -1.0, 2.0])
    assert_array_equal(gradient_of(Wd1(negative_loss_clamp=3.0), new, new, advantage).any(-1), [True, False, True])


@pytest.mark.parametrize("preset", ["paper", "cpu", "smoke"])
def test_its_presets_stop_bad_samples(preset):
    assert make_config(preset, "BallInCup", "wd1", "native")[0].objective.negative_loss_clamp == 3.0
