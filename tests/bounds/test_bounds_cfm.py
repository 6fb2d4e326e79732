"""The conditional flow-matching loss in its three forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import FORMS, Draws, cfm_loss, convert_prediction, interpolate

KEYS = jax.random.split(jax.random.key(0), 4)
ACTION = jax.random.normal(KEYS[0], (5, 3))
DRAWS = Draws(jax.random.uniform(KEYS[1], (5, 7), minval=0.05, maxval=0.95), jax.random.normal(KEYS[2], (5, 7, 3)))
VELOCITY = jax.random.normal(KEYS[3], (5, 7, 3))


def loss(form, reduction="mean", draws=DRAWS, velocity=VELOCITY):
    return np.asarray(cfm_loss(velocity, ACTION, draws, form=form, reduction=reduction), np.float64)


def test_the_losses_equal_the_textbook_ones_computed_from_converted_predictions():
    x_t = interpolate(ACTION, *DRAWS)
    targets = {"velocity": DRAWS.eps - ACTION[:, None], "eps": DRAWS.eps, "x0": ACTION[:, None]}
    for form, target in targets.items():
        prediction = convert_prediction(VELOCITY, x_t, DRAWS.t, source="velocity", target=form)
        np.testing.assert_allclose(loss(form), jnp.mean((prediction - target) ** 2, -1), rtol=2e-4)


def test_the_eps_loss_is_the_velocity_loss_times_one_minus_t_squared_and_the_x0_loss_times_t_squared():
    t = np.asarray(DRAWS.t, np.float64)
    np.testing.assert_allclose(loss("eps"), (1 - t) ** 2 * loss("velocity"), rtol=1e-6)
    np.testing.assert_allclose(loss("x0"), t**2 * loss("velocity"), rtol=1e-6)


def test_the_eps_loss_vanishes_at_pure_noise_and_so_does_its_gradient():
    draws = DRAWS._replace(t=jnp.ones_like(DRAWS.t))
    assert np.all(loss("eps", draws=draws) == 0.0) and np.all(loss("velocity", draws=draws) > 0.0)
    gradient = jax.grad(lambda v: cfm_loss(v, ACTION, draws, form="eps", reduction="sum").sum())(VELOCITY)
    assert np.all(gradient == 0.0)


def test_the_reductions_are_mean_sum_and_sum_over_root_d():
    np.testing.assert_allclose(loss("velocity", "sum"), 3 * loss("velocity"), rtol=1e-6)
    np.testing.assert_allclose(loss("velocity", "sqrt"), np.sqrt(3) * loss("velocity"), rtol=1e-6)


def test_the_loss_of_the_true_velocity_is_zero():
    assert np.all(loss("velocity", velocity=DRAWS.eps - ACTION[:, None]) == 0.0)


def test_interpolation_runs_from_the_action_at_0_to_the_noise_at_1():
    t = jnp.broadcast_to(jnp.asarray([0.0, 1.0, 0.25]), (5, 3))
    x_t = interpolate(ACTION, t, DRAWS.eps[:, :3])
    np.testing.assert_allclose(x_t[:, 0], ACTION)
    np.testing.assert_allclose(x_t[:, 1], DRAWS.eps[:, 1])
    np.testing.assert_allclose(x_t[:, 2], 0.75 * ACTION + 0.25 * DRAWS.eps[:, 2], rtol=1e-6)


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_conversions_turn_true_predictions_into_true_predictions(source, target):
    with jax.enable_x64(True):
        action, eps = (np.asarray(x, np.float64) for x in (ACTION, DRAWS.eps[:, 0]))
        t = np.asarray(DRAWS.t[:, 0], np.float64)
        x_t = (1 - t[:, None]) * action + t[:, None] * eps
        truth = {"velocity": eps - action, "eps": eps, "x0": action}
        got = convert_prediction(
            jnp.asarray(truth[source]), jnp.asarray(x_t), jnp.asarray(t), source=source, target=target
        )
        np.testing.assert_allclose(got, truth[target], atol=1e-13)


def test_conversions_there_and_back_return_what_went_in():
    with jax.enable_x64(True):
        x_t, prediction, t = (jnp.asarray(np.asarray(x), jnp.float64) for x in (ACTION, VELOCITY[:, 0], DRAWS.t[:, 0]))
        for source in FORMS:
            for target in FORMS:
                there = convert_prediction(prediction, x_t, t, source=source, target=target)
                back = convert_prediction(there, x_t, t, source=target, target=source)
                np.testing.assert_allclose(back, prediction, atol=1e-12)


def test_a_noise_prediction_at_pure_noise_has_no_velocity_and_says_so():
    out = convert_prediction(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones(1), source="eps", target="velocity")
    assert not np.any(np.isfinite(out))


@pytest.mark.parametrize(
    "call",
    [
        lambda: loss("score"),
        lambda: loss("eps", "max"),
        lambda: convert_prediction(ACTION, ACTION, jnp.ones(5), source="eps", target="score"),
    ],
)
def test_an_unknown_form_or_reduction_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"'(score|max)' is not one of"):
        call()
