"""ELBO and EUBO against closed forms: entropy of a Gaussian, a mixture by quadrature, Jensen and its limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import (
    Draws,
    cutoff_floor,
    draw_weights,
    elbo,
    elbo_constant,
    eubo_like,
    gaussian_velocity,
    loss_weight,
    mixed_bound,
    ode_log_prob_of_action,
    sample_draws,
    time_grid,
    to_log_uniform,
    weighting_status,
)
from dipod_jax.diagnostics import draw_losses

STD = 0.3


def entropy(std, action_size=1):
    return 0.5 * action_size * math.log(2 * math.pi * math.e * std**2)


def nelbo_of_gaussian(delta, time_measure, num_draws=64, batch=4096, action_size=2, seed=0):
    """Mean and standard error of -ELBO for actions ~ N(0, STD^2 I) under their optimal field."""
    key_action, key_draws = jax.random.split(jax.random.key(seed))
    action = STD * jax.random.normal(key_action, (batch, action_size))
    t_min = delta if time_measure == "uniform" else 0.0
    draws = sample_draws(key_draws, (batch,), num_draws, action_size, placement="stratified", t_min=t_min)
    draws = draws if time_measure == "uniform" else to_log_uniform(draws, delta=delta)
    losses = draw_losses(gaussian_velocity, STD, action, action, draws, form="velocity", reduction="sum")
    bound = elbo(losses, draws.t, action_size=action_size, delta=delta, time_measure=time_measure)
    return -float(bound.mean()), float(bound.std()) / math.sqrt(batch)


@pytest.mark.slow
@pytest.mark.parametrize(("time_measure", "delta"), [("uniform", 0.2), ("log-uniform", 0.2), ("log-uniform", 0.05)])
def test_the_negative_elbo_of_a_gaussian_is_its_entropy_plus_the_price_of_the_cutoff(time_measure, delta):
    nelbo, error = nelbo_of_gaussian(delta, time_measure)
    price = math.log(1 + (delta / ((1 - delta) * STD)) ** 2)  # (d/2) log(...), d = 2
    assert float(cutoff_floor(jnp.full(2, STD), delta=delta)) == pytest.approx(price, rel=1e-5)
    assert error < 0.025
    assert nelbo == pytest.approx(entropy(STD, 2) + price, abs=4 * error)


def test_the_negative_elbo_tends_to_the_entropy_as_the_cutoff_goes_to_zero():
    nelbo, error = nelbo_of_gaussian(1e-3, "log-uniform")
    assert nelbo == pytest.approx(entropy(STD, 2), abs=4 * error + 2e-5)


@pytest.mark.slow
def test_the_log_uniform_estimator_has_a_bounded_weight_and_less_variance_at_a_small_cutoff():
    _, uniform = nelbo_of_gaussian(0.01, "uniform", num_draws=8)
    _, log_uniform = nelbo_of_gaussian(0.01, "log-uniform", num_draws=8)
    assert log_uniform < 0.7 * uniform


def test_the_three_forms_of_the_loss_give_the_same_elbo_integrand():
    t = jnp.linspace(0.05, 0.95, 7)
    velocity = loss_weight(t, weighting="elbo", form="velocity")
    np.testing.assert_allclose(velocity, (1 - t) / t, rtol=1e-6)
    np.testing.assert_allclose(loss_weight(t, weighting="elbo", form="eps") * (1 - t) ** 2, velocity, rtol=1e-5)
    np.testing.assert_allclose(loss_weight(t, weighting="elbo", form="x0") * t**2, velocity, rtol=1e-5)


@pytest.mark.parametrize(
    ("weighting", "form", "is_elbo", "words"),
    [
        ("elbo", "velocity", True, "clean action"),
        ("elbo", "eps", True, "clean action"),
        ("elbo", "x0", True, "clean action"),
        ("uniform", "velocity", True, "noise-perturbed"),
        ("uniform", "x0", True, "noise-perturbed"),
        ("uniform", "eps", False, "not monotone"),  # FPO's default
    ],
)
def test_every_weighting_says_whether_it_is_an_elbo(weighting, form, is_elbo, words):
    status = weighting_status(weighting=weighting, form=form)
    assert status.is_elbo is is_elbo and words in status.statement
    assert jax.jit(lambda x: x * weighting_status(weighting=weighting, form=form).is_elbo)(2.0) == 2.0 * is_elbo


def mixture_velocity(params, obs, x, t):
    """Optimal velocity for the mixture 1/2 N(-m, s^2) + 1/2 N(m, s^2) in one dimension: E[eps - a | x_t]."""
    del obs
    m, s = params
    t = t[..., None] if jnp.ndim(t) else t
    variance = (1 - t) ** 2 * s**2 + t**2
    modes = jnp.asarray([-m, m])[:, None, None]
    centers = (1 - t) * modes
    responsibility = jax.nn.softmax(-0.5 * (x - centers) ** 2 / variance, axis=0)
    slope = (t - (1 - t) * s**2) / variance
    velocity = slope * (x - centers) - modes
    return jnp.sum(responsibility * velocity, axis=0)


def mixture_log_prob(a, m, s):
    modes = [-0.5 * ((a - c) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi) for c in (-m, m)]
    return np.logaddexp(*modes) - math.log(2)


def test_the_ode_likelihood_of_a_mixture_of_two_gaussians_is_its_density():
    m, s = 0.8, 0.25
    action = np.linspace(-1.6, 1.6, 33)[:, None]
    got = ode_log_prob_of_action(
        mixture_velocity, (m, s), jnp.zeros((33, 1)), jnp.asarray(action, jnp.float32), time_grid(400, kind="uniform")
    )
    np.testing.assert_allclose(got, mixture_log_prob(action[:, 0], m, s), atol=5e-3)


@pytest.mark.slow
def test_the_elbo_of_a_mixture_of_two_gaussians_lies_below_its_density_and_meets_its_entropy_on_average():
    m, s, delta = 0.8, 0.25, 0.02
    # Quadrature over t (log-uniform), eps and the actions: nothing random is left.
    log_t, weights_t = np.polynomial.legendre.leggauss(60)
    log_t = 0.5 * (log_t + 1) * math.log(delta)
    nodes, weights_eps = np.polynomial.hermite_e.hermegauss(60)
    action = np.linspace(-2.2, 2.2, 177)
    t, eps = (x.ravel() for x in np.meshgrid(np.exp(log_t), nodes, indexing="ij"))
    weights = np.outer(weights_t / 2, weights_eps / math.sqrt(2 * math.pi)).ravel()
    shape = (len(action), len(t))
    draws = Draws(
        jnp.broadcast_to(jnp.asarray(t, jnp.float32), shape),
        jnp.broadcast_to(jnp.asarray(eps, jnp.float32), shape)[..., None],
    )
    points = jnp.asarray(action[:, None], jnp.float32)
    losses = draw_losses(mixture_velocity, (m, s), points, points, draws, form="velocity", reduction="sum")
    bound = np.asarray(
        elbo(losses, draws.t, action_size=1, delta=delta, time_measure="log-uniform", weights=jnp.asarray(weights))
    )
    log_prob = mixture_log_prob(action, m, s)
    density = np.exp(log_prob) * (action[1] - action[0])
    assert density.sum() == pytest.approx(1.0, abs=1e-6)
    gap = log_prob - bound
    assert float(density @ gap) == pytest.approx(0.5 * math.log(1 + (delta / (1 - delta) / s) ** 2), abs=2e-3)
    # Action by action it bounds the density of what the cut-off diffusion generates: the mixture, smoothed twice.
    smoothed = mixture_log_prob(action, m, math.sqrt(s**2 + 2 * (delta / (1 - delta)) ** 2))
    assert float(np.min(smoothed - bound)) > -1e-4
    assert float(np.min(gap)) < -0.05  # and not the density itself: far out in the tails it lies above it


def test_the_constant_of_the_elbo_is_the_one_of_a_gaussian_reconstruction_at_the_cutoff():
    assert elbo_constant(3, 0.05) == pytest.approx(3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.05 / 0.95)))


@pytest.mark.parametrize("order", [0.1, 1.5])
def test_the_eubo_lies_between_the_mean_and_the_maximum_and_grows_with_its_order(order):
    scores = jax.random.normal(jax.random.key(0), (100, 8)) * 3.0
    bound = eubo_like(scores, order=order)
    assert bool(jnp.all(bound >= scores.mean(-1) - 1e-5)) and bool(jnp.all(bound <= scores.max(-1) + 1e-5))
    assert bool(jnp.all(eubo_like(scores, order=2 * order) >= bound - 1e-5))


def test_the_eubo_tends_to_the_elbo_and_to_the_best_draw_at_the_ends_of_its_order():
    scores = jax.random.normal(jax.random.key(0), (50, 8))
    np.testing.assert_allclose(eubo_like(scores, order=1e-3), scores.mean(-1), atol=5e-3)
    np.testing.assert_allclose(eubo_like(scores, order=500.0), scores.max(-1), atol=math.log(8) / 500 + 1e-5)


def test_the_eubo_equals_the_elbo_when_all_draws_agree():
    np.testing.assert_allclose(eubo_like(jnp.full((3, 5), -2.5), order=1.5), -2.5, rtol=1e-6)


def test_the_eubo_of_two_draws_is_the_hand_computed_renyi_mean():
    expected = math.log((math.exp(1.5 * -1.0) + math.exp(1.5 * -3.0)) / 2) / 1.5
    assert float(eubo_like(jnp.asarray([-1.0, -3.0]), order=1.5)) == pytest.approx(expected, rel=1e-6)
    weighted = math.log(0.25 * math.exp(1.5 * -1.0) + 0.75 * math.exp(1.5 * -3.0)) / 1.5
    got = eubo_like(jnp.asarray([-1.0, -3.0]), order=1.5, weights=jnp.asarray([0.25, 0.75]))
    assert float(got) == pytest.approx(weighted, rel=1e-6)


def test_the_gradient_of_the_mixture_weighs_draws_by_softmax_and_uniform():
    scores = jnp.asarray([0.5, -1.0, 2.0, 0.0])
    gradient = jax.grad(lambda e: mixed_bound(e, order=1.5, mix=0.5))(scores)
    np.testing.assert_allclose(gradient, 0.5 * jax.nn.softmax(1.5 * scores) + 0.5 / 4, rtol=1e-5)


def test_the_mixture_is_the_elbo_at_mix_0_and_the_eubo_at_mix_1():
    scores, weights = jnp.asarray([[0.5, -1.0, 2.0]]), draw_weights("gauss-legendre", 3)
    np.testing.assert_allclose(mixed_bound(scores, order=2.0, mix=0.0, weights=weights), scores @ weights, rtol=1e-6)
    np.testing.assert_allclose(
        mixed_bound(scores, order=2.0, mix=1.0, weights=weights), eubo_like(scores, order=2.0, weights=weights)
    )


def test_the_eubo_survives_scores_far_outside_the_range_of_exp_with_a_finite_gradient():
    scores = jnp.asarray([-5000.0, -4000.0])
    value, gradient = jax.value_and_grad(lambda e: eubo_like(e, order=1.5))(scores)
    assert float(value) == pytest.approx(-4000.0 - math.log(2) / 1.5, rel=1e-6)
    np.testing.assert_allclose(gradient, [0.0, 1.0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: eubo_like(jnp.zeros(2), order=0.0),
        lambda: mixed_bound(jnp.zeros(2), order=1.0, mix=1.5),
        lambda: elbo(jnp.zeros(2), jnp.ones(2), action_size=1, delta=0.0, time_measure="uniform"),
        lambda: elbo(jnp.zeros(2), jnp.ones(2), action_size=1, delta=0.1, time_measure="gamma"),
        lambda: loss_weight(jnp.ones(2), weighting="snr", form="eps"),
    ],
)
def test_an_illegal_order_mix_cutoff_measure_or_weighting_is_refused_with_its_value(call):
    with pytest.raises(ValueError, match=r"order 0.0|mix 1.5|delta 0.0|'gamma'|'snr'"):
        call()
