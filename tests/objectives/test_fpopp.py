"""FPO++ against loops in float64 that write out its value and its gradient, straight-through clamp included."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, random_batch

from dipod_jax.objectives.fpopp import FpoPlusPlus
from dipod_jax.presets import make_config

EPS = 0.05


def expected(new, old, advantage, loss_clamp=20.0, negative=20.0, highest=10.0):
    """Value and gradient in the new losses (arXiv 2602.02481, eqs. 9-13), draw by draw."""
    value, gradient = 0.0, np.zeros(new.shape)
    for (b, n), l_new in np.ndenumerate(new):
        a, l_old = advantage[b], min(old[b, n], loss_clamp)
        top = min(loss_clamp, negative) if a < 0 else loss_clamp
        rho = np.exp(min(l_old - min(l_new, top), highest))
        if a > 0:
            value -= min(rho * a, min(max(rho, 1 - EPS), 1 + EPS) * a)
            slope = -a if rho < 1 + EPS else 0.0
        else:
            value -= rho * a - abs(a) / (2 * EPS) * (rho - 1) ** 2
            slope = -(a - abs(a) * (rho - 1) / EPS)
        gradient[b, n] = -rho * slope if l_new < top else 0.0  # the clamp of log rho hides nothing from the gradient
    return value / new.size, gradient / new.size


def check(objective, new, old, advantage, **options):
    value, gradient = expected(new, old, advantage, **options)
    assert_allclose(loss_of(objective, new, old, advantage), value, rtol=1e-4)
    assert_allclose(gradient_of(objective, new, old, advantage), gradient, rtol=2e-4, atol=1e-7)


def test_value_and_gradient_equal_a_float64_loop():
    check(FpoPlusPlus(), *random_batch())


@pytest.mark.parametrize("top", [1.5, 1.0])
def test_clamped_losses_have_no_gradient_and_count_as_the_clamp(top):
    batch = random_batch()
    check(FpoPlusPlus(loss_clamp=1.2, negative_loss_clamp=top), *batch, loss_clamp=1.2, negative=top)
    check(FpoPlusPlus(loss_clamp=None, negative_loss_clamp=top), *batch, loss_clamp=np.inf, negative=top)


def test_the_clamp_of_the_log_ratio_is_one_sided_and_keeps_the_gradient():
    new, old, advantage = random_batch(scale=0.3)
    assert (old - new > 0.2).any() and (old - new < -0.2).any()
    check(FpoPlusPlus(log_ratio_clip=0.2), new, old, advantage, highest=0.2)


def test_ratios_that_would_overflow_are_bounded_and_pull_back():
    # log rho is 18 for every draw: e^10 after the clamp, on which the pull of a bad sample acts, but PPO's clip lets go
    new, old = np.full((2, 4), 1.0), np.full((2, 4), 19.0)
    gradient = gradient_of(FpoPlusPlus(), new, old, np.array([-1.0, 1.0]))
    rho = np.exp(10.0)
    assert_allclose(gradient[0], -rho * (1 + (rho - 1) / EPS) / 8, rtol=1e-3)  # the loss of a bad sample is raised
    assert_array_equal(gradient[1], 0.0)
    far = gradient_of(FpoPlusPlus(), np.full((2, 4), 1e6), np.full((2, 4), 1e-3), np.array([-1.0, 1.0]))
    assert_array_equal(far, 0.0)


def test_no_advantage_is_no_loss_and_no_gradient_as_in_code_and_paper():
    new, old, _ = random_batch()
    assert loss_of(FpoPlusPlus(), new, old, np.zeros(64)) == 0.0
    assert_array_equal(gradient_of(FpoPlusPlus(), new, old, np.zeros(64)), 0.0)


def test_at_the_acting_parameters_the_gradient_is_that_of_the_advantage_weighted_loss():
    _, old, advantage = random_batch()
    old[0] = 30.0  # beyond the clamp: the ratio is 1 there as well, and there is no gradient
    assert_allclose(loss_of(FpoPlusPlus(), old, old, advantage), -advantage.mean(), rtol=1e-5)
    weighted = np.repeat(advantage[:, None], 8, 1) / old.size
    weighted[0] = 0.0
    assert_allclose(gradient_of(FpoPlusPlus(), old, old, advantage), weighted, rtol=1e-4)


@pytest.mark.parametrize("preset", ["paper", "cpu", "smoke"])
def test_its_presets_score_by_the_velocity_loss_over_the_root_of_the_action_size(preset):
    policy = make_config(preset, "BallInCup", "fpo++", "native")[0].policy
    assert (policy.loss_form, policy.reduction) == ("velocity", "sqrt")


@pytest.mark.parametrize("name", ["clip_epsilon", "loss_clamp", "negative_loss_clamp", "log_ratio_clip"])
def test_bounds_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match=f"--objective.{name.replace('_', '-')} 0.0 is not allowed"):
        FpoPlusPlus(**{name: 0.0}).validate()
