"""AWM against its formulas in float64: five weightings, two ratios, a KL of velocities."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import field_scores, numerical_gradient, random_batch, scores

from dipod_jax.objectives.awm import Awm, weigh
from dipod_jax.presets import make_config

rng = np.random.default_rng(3)
NEW, OLD, ADVANTAGE = random_batch(scale=0.4)
NEW = np.abs(NEW) + 0.05  # a squared error
TIME = rng.uniform(0.05, 0.95, NEW.shape)
TIME[0] = 1.0  # pure noise
WEIGHTINGS = {
    "uniform": lambda l, t: l,
    "t": lambda l, t: t * l,
    "t2": lambda l, t: t * t * l,
    "huber": lambda l, t: (np.sqrt(l + 1e-10) - 1e-5) * t,
    "ghuber": lambda l, t: ((l + 1e-10) ** 0.25 - 1e-10**0.25) * t / 0.25,
}


def flow_scores(loss, velocity=None):
    return scores(loss, field=field_scores(np.zeros((*NEW.shape, 3)) if velocity is None else velocity, TIME))


@pytest.mark.parametrize("ratio", ["per-draw", "average"])
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_value_and_gradient_equal_a_float64_formula(weighting, ratio):
    def formula(new):
        z = WEIGHTINGS[weighting](OLD, TIME) - WEIGHTINGS[weighting](new, TIME)
        rho = np.exp(z if ratio == "per-draw" else z.mean(-1, keepdims=True))
        a = ADVANTAGE[:, None]
        return np.maximum(-a * rho, -a * np.clip(rho, 0.8, 1.2)).mean()

    objective = Awm(weighting, ratio, 0.2, kl_weight=None)
    loss = lambda n: objective(flow_scores(n), flow_scores(OLD), None, jnp.float32(ADVANTAGE))[0]
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(NEW))
    assert_allclose(value, formula(NEW), rtol=1e-5)
    assert_allclose(gradient, numerical_gradient(formula, NEW), rtol=1e-3, atol=1e-7)


def test_at_the_acting_parameters_the_unweighted_gradient_is_that_of_the_advantage_weighted_loss():
    objective = Awm("uniform", kl_weight=None)
    loss = lambda n: objective(flow_scores(n), flow_scores(OLD), None, jnp.float32(ADVANTAGE))[0]
    assert_allclose(jax.grad(loss)(jnp.float32(OLD)), np.repeat(ADVANTAGE[:, None], 8, 1) / OLD.size, rtol=1e-5)


def test_the_kl_is_of_velocities_and_the_reference_has_no_gradient():
    new, reference = rng.standard_normal((2, *NEW.shape, 3))
    objective, old = Awm(kl_weight=0.4), flow_scores(OLD)
    loss = lambda n, r: objective(flow_scores(OLD, n), old, flow_scores(OLD, r), jnp.zeros(64))[0]
    value, (to_new, to_reference) = jax.value_and_grad(loss, (0, 1))(jnp.float32(new), jnp.float32(reference))
    assert_allclose(value, 0.4 * np.mean((new - reference) ** 2), rtol=1e-5)
    assert_allclose(to_new, 0.8 * (new - reference) / new.size, rtol=1e-4, atol=1e-8)
    assert_array_equal(to_reference, 0.0)


@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_slopes_are_finite_at_a_loss_of_nothing_and_at_both_ends_of_time(weighting):
    for t in (0.0, 1.0):
        assert np.isfinite(jax.grad(weigh)(jnp.float32(0.0), jnp.float32(t), weighting))
    if weighting != "uniform":
        assert weigh(jnp.float32(2.0), jnp.float32(0.0), weighting) == 0.0


@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
@pytest.mark.parametrize("form", ["eps", "elbo"])
def test_a_weighting_is_refused_over_another_loss_than_the_velocitys(form, weighting):
    """eps is (1 - t)^2 and the ELBO (1 - t) / t times it: t of these is another method's weight."""
    start = make_config("smoke", "BallInCup", "awm", "native")[0]
    over = lambda: replace(start, objective=Awm(weighting), policy=replace(start.policy, loss_form=form))
    if weighting == "uniform":
        over()
    else:
        with pytest.raises(ValueError, match=f"--policy.loss-form {form} is not allowed: velocity with the objective"):
            over()


def test_its_presets_train_the_velocity_and_keep_the_last_policy_as_reference():
    for preset in ("paper", "cpu", "smoke"):
        config = make_config(preset, "BallInCup", "awm", "native")[0]
        assert (config.policy.loss_form, config.policy.reduction) == ("velocity", "mean")
        assert config.needs_reference and config.learning.reference_decay == 0.0
