"""The KLs to a reference policy: values, gradients, and the estimator that is not offered."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import acted, make
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import field_scores, numerical_gradient, random_batch, scores

from dipod_jax.objectives.fpo import Fpo
from dipod_jax.policies.gaussian import GaussianOptions
from dipod_jax.policies.terminal_noise import TerminalNoiseOptions
from dipod_jax.presets import make_config
from dipod_jax.regularisers import Terms
from dipod_jax.regularisers.dipod import Dipod
from dipod_jax.regularisers.k2 import K2, kl_estimate
from dipod_jax.regularisers.path import PathKl
from dipod_jax.regularisers.velocity import VelocityKl, velocity_kl
from dipod_jax.types import Steps


def test_k2_equals_its_formula_and_its_gradient_that_of_the_formula():
    new, reference, _ = random_batch()
    average = lambda n: 0.3 * np.mean(0.5 * (reference - n).mean(-1) ** 2)
    per_draw = lambda n: 0.3 * np.mean(0.5 * (reference - n) ** 2)
    for kind, formula in (("average", average), ("per-draw", per_draw)):
        term = lambda n, kind=kind: K2(0.3, kind)(Terms(scores(n), scores(n), scores(reference), None))
        value, gradient = jax.value_and_grad(term)(jnp.float32(new))
        assert_allclose(value, formula(new), rtol=1e-5)
        assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-8)


def test_each_estimator_by_hand():
    # D = .5: k2 = .125, k1 = .5, k3 = e^-.5 - .5 = .106531; slopes D, 1 + D, 1 - e^-D
    at = lambda kind: jax.value_and_grad(kl_estimate)(jnp.float32(0.5), kind)
    assert_allclose(at("k2"), (0.125, 0.5), rtol=1e-6)
    assert_allclose(at("k1"), (0.5, 1.5), rtol=1e-6)
    assert_allclose(at("k3"), (0.10653066, 0.39346934), rtol=1e-5)


def test_the_three_agree_with_the_kl_and_its_gradient_of_two_gaussians_close_by():
    # pi = N(m, 1), ref = N(0, 1), own samples x = m + z: D = m x - m^2 / 2, KL = m^2 / 2, d log pi / dm = x - m
    z, m = np.random.default_rng(0).standard_normal(400_000).astype(np.float32), 0.1
    x = jnp.asarray(m + z)
    log_ratio = lambda mean: -0.5 * jnp.square(x - mean) + 0.5 * jnp.square(x)
    for kind in ("k1", "k2", "k3"):
        value, slope = jax.value_and_grad(lambda mean, k=kind: kl_estimate(log_ratio(mean), k).mean())(jnp.float32(m))
        assert_allclose(value, m**2 / 2, atol=4e-4)  # standard error of k1 m / sqrt(400,000) = 1.6e-4
        # k3's slope at the samples is the reverse KL's, equal here; k1's needs its second term
        assert_allclose(slope, m, atol=6e-3)


def test_a_k1_without_its_correction_is_a_dipod_of_the_opposite_sign():
    new, reference, advantage = (jnp.float32(x) for x in random_batch())
    plain_k1 = lambda n: 0.04 * (scores(reference).mean() - scores(n).mean()).mean()
    dipod = lambda n: Dipod(0.04)(Terms(scores(n, bound=scores(n).mean()), scores(n), None, None))
    assert_allclose(jax.grad(lambda n: plain_k1(n) + dipod(n))(new), np.zeros(new.shape), atol=1e-12)
    # over a ratio as well: DiPOD's whole effect is gone, whatever the reference
    surrogate = lambda n: Fpo()(scores(n), scores(reference), None, advantage)[0]
    both = jax.grad(lambda n: surrogate(n) + plain_k1(n) + dipod(n))(new)
    assert_allclose(both, jax.grad(surrogate)(new), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "pull", "left"),
    [("k1", lambda d: d, 0.0), ("k2", lambda d: d, 1.0), ("k3", lambda d: 1 - np.exp(-d), 1.0)],
)
def test_over_a_bound_k1_takes_its_weight_off_beta_and_the_others_leave_dipod_whole(kind, pull, left):
    new, reference, _ = random_batch()
    dipod = lambda n: Dipod(0.04)(Terms(scores(n, bound=scores(n).mean()), scores(n), None, None))
    kl = lambda n: 0.04 * kl_estimate(scores(reference).mean() - scores(n).mean(), kind).mean()
    gradient = jax.grad(lambda n: kl(n) + dipod(n))(jnp.float32(new))
    apart = (reference - new).mean(-1, keepdims=True)
    assert_allclose(gradient, np.broadcast_to(0.04 * (left - pull(apart)) / new.size, new.shape), rtol=1e-3, atol=1e-8)


def test_the_regulariser_has_no_choice_of_estimator():
    """A k1 of it would take its weight off beta; which draws are averaged first is all there is to choose."""
    assert [field.name for field in fields(K2)] == ["weight", "draws"]
    with pytest.raises(ValueError, match=r"--regularisers.k2.draws k1 is not allowed: one of average, per-draw"):
        K2(0.1, "k1").validate()  # pyright: ignore


def test_k3_far_from_the_reference_is_finite_and_pulls_back():
    value, slope = jax.value_and_grad(kl_estimate)(jnp.float32(-1e4), "k3")
    assert jnp.isfinite(value) and jnp.isfinite(slope) and slope < 0
    assert_allclose(slope, 1 - np.exp(20.0), rtol=1e-5)


@pytest.mark.parametrize("draws", ["average", "per-draw"])
def test_a_sample_that_one_of_the_two_does_not_know_takes_no_part(draws):
    new, reference = jnp.array([[1.0], [1.0], [jnp.nan], [2.0]]), jnp.array([[2.0], [jnp.nan], [5.0], [2.5]])
    term = lambda n: K2(1.0, draws)(Terms(scores(n), scores(n), scores(reference), None))
    value, gradient = jax.value_and_grad(term)(new)
    assert_allclose(value, (0.5 + 0.125) / 4)
    assert_allclose(gradient[:, 0], [-0.25, 0.0, 0.0, -0.125])


def flow_scores(velocity, time):
    return scores(np.zeros(velocity.shape[:-1]), field=field_scores(velocity, time))


@pytest.mark.parametrize("weighting", ["uniform", "elbo"])
def test_the_velocity_kl_equals_its_formula_and_its_gradient_that_of_the_formula(weighting):
    rng = np.random.default_rng(0)
    new, reference = rng.standard_normal((2, 6, 4, 3))
    time = rng.uniform(0.05, 0.95, (6, 4))
    weight = 1.0 if weighting == "uniform" else (1 / (2 * 0.49 * time / (1 - time)))[..., None]
    formula = lambda v: 0.2 * np.mean(weight * (v - reference) ** 2)
    kept = flow_scores(reference, time)
    term = lambda v: VelocityKl(0.2, weighting)(Terms(flow_scores(v, time), kept, kept, None))
    value, gradient = jax.value_and_grad(term)(jnp.float32(new))
    assert_allclose(value, formula(new), rtol=1e-5)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


def test_the_velocity_kl_is_finite_at_both_ends_of_time():
    new, reference = (field_scores(np.full((1, 2, 3), v), [[0.0, 1.0]]) for v in (1.0, 0.0))
    # AWM's weight at t = .01 and .99
    assert_allclose(velocity_kl(new, reference, "elbo"), (0.99 / 0.01 + 0.01 / 0.99) / (2 * 0.49) / 2, rtol=1e-4)
    slope = jax.grad(lambda v: velocity_kl(new._replace(velocity=v), reference, "elbo").sum())(new.velocity)
    assert jnp.isfinite(slope).all()
    fixed = jax.grad(lambda v: velocity_kl(new, reference._replace(velocity=v), "elbo").sum())(reference.velocity)
    assert_array_equal(fixed, 0.0)


def test_a_reference_is_kept_where_a_regulariser_asks_for_one_and_refused_where_there_is_nothing_to_compare():
    config, _ = make_config("smoke", "BallInCup", "ppo", "native")
    assert not config.needs_reference
    over = lambda **chosen: replace(config, regularisers=replace(config.regularisers, **chosen))
    assert over(k2=K2(0.1)).needs_reference  # an exact likelihood has a k2 as well
    with pytest.raises(
        ValueError, match=r"--regularisers.velocity.weight 0.1 is not allowed: 0 with the objective ppo"
    ):
        over(velocity=VelocityKl(0.1))
    assert isinstance(config.policy, GaussianOptions)


def test_the_path_kl_of_one_decision_that_draws_estimate_is_their_mean():
    """Of policyflow's: the field moves by u everywhere, so that every draw says |u|^2 / (2 sigma^2)."""
    shift = jnp.array([0.1, -0.2, 0.3])
    for num_draws in (2, 8):
        policy, params = make(TerminalNoiseOptions((16, 12), num_steps=4, num_draws=num_draws, initial_noise=0.5))
        obs, action, _, evidence = acted(policy, params)
        velocity = evidence.velocity + shift
        with pytest.MonkeyPatch.context() as patch:
            old = policy.score(params, obs, action, evidence)
            patch.setattr(policy, "velocity", lambda *_, v=velocity: v)
            new = policy.score(params, obs, action, evidence)
        kl = 0.5 * float(jnp.square(shift / policy.std(params)).sum())
        assert_allclose(PathKl(0.1)(Terms(new, old, old.kept(), None)), 0.1 * kl, rtol=1e-3)


@pytest.mark.slow
def test_the_path_kl_is_the_sum_of_the_steps_kls_and_pulls_to_the_reference():
    rng = np.random.default_rng(0)
    new, reference = rng.standard_normal((2, 5, 4, 3))
    new_std, reference_std = rng.uniform(0.5, 1.5, (2, 5, 4, 1))

    def formula(move):
        r = new_std / reference_std
        apart = (move - reference) / reference_std
        return 0.3 * (0.5 * (r**2 - 1 - 2 * np.log(r) + apart**2)).sum((-1, -2)).mean()

    kept = scores(np.zeros((5, 4)), steps=Steps(jnp.float32(reference), jnp.float32(reference_std)))
    step_scores = lambda move: kept._replace(steps=Steps(move, jnp.float32(new_std)))
    term = lambda move, other: PathKl(0.3)(Terms(step_scores(move), kept, other, None))
    value, gradient = jax.value_and_grad(term)(jnp.float32(new), kept)
    assert_allclose(value, formula(new), rtol=1e-5)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)
    fixed = jax.grad(lambda r: term(jnp.float32(new), kept._replace(steps=Steps(r, kept.steps.std))))(kept.steps.move)
    assert_array_equal(fixed, 0.0)
    with pytest.raises(ValueError, match=r"--regularisers.path.weight 0.1 is not allowed: 0 with the objective fpo"):
        config, _ = make_config("smoke", "BallInCup", "fpo", "native")
        replace(config, regularisers=replace(config.regularisers, path=PathKl(0.1)))
