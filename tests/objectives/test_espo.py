"""ESPO against its formulas in float64, its KL and its presets."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.espo import Espo
from dipod_jax.objectives.gdpo import Gdpo
from dipod_jax.presets import make_config

RATIO = Espo(0.1, 0.3, kl_weight=None)


def surrogate(new, old, advantage, low=0.1, high=0.3):
    """(B,) -min(rho A, clip(rho) A) of the ratio of mean losses."""
    rho = np.exp(old.mean(-1) - new.mean(-1))
    return -np.minimum(rho * advantage, np.clip(rho, 1 - low, 1 + high) * advantage)


def batch():
    new, old, advantage = random_batch(scale=0.6)
    reference = old + 0.5 * np.random.default_rng(1).standard_normal(old.shape)
    return new, old, advantage, reference


def test_the_ratio_and_its_two_sided_clip_equal_a_float64_formula():
    new, old, advantage, _ = batch()
    rho = np.exp(old.mean(-1) - new.mean(-1))
    assert (rho < 0.9).any() and (rho > 1.3).any()
    formula = lambda n: surrogate(n, old, advantage).mean()
    assert_allclose(loss_of(RATIO, new, old, advantage), formula(new), rtol=1e-5)
    assert_allclose(gradient_of(RATIO, new, old, advantage), numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_the_kl_is_of_mean_scores_to_the_reference(kl):
    new, old, advantage, reference = batch()

    def formula(n):
        d = reference.mean(-1) - n.mean(-1)
        return (surrogate(n, old, advantage) + 0.7 * (d**2 / 2 if kl == "k2" else np.exp(-d) - 1 + d)).mean()

    objective = Espo(0.1, 0.3, kl, 0.7)
    assert_allclose(loss_of(objective, new, old, advantage, reference), formula(new), rtol=1e-5)
    gradient = gradient_of(objective, new, old, advantage, reference)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


def test_the_gradient_of_k1_has_the_reference_in_it():
    """d/dl of D + (D - sg D) sg D is -(1 + D) / N, D the difference of mean losses: by hand, for no function has it."""
    new, old, advantage, reference = batch()
    d = reference.mean(-1, keepdims=True) - new.mean(-1, keepdims=True)
    zero = np.zeros_like(advantage)
    assert_allclose(loss_of(Espo(kl="k1", kl_weight=0.7), new, old, zero, reference), 0.7 * d.mean(), rtol=1e-4)
    gradient = gradient_of(Espo(kl="k1", kl_weight=0.7), new, old, zero, reference)
    assert_allclose(gradient, np.broadcast_to(-0.7 * (1 + d) / new.size, new.shape), rtol=1e-4)


@pytest.mark.parametrize("cls", [Espo, Gdpo])
def test_k1_is_refused_beside_a_beta_that_its_weight_would_come_off(cls):
    flow = make_config("smoke", "BallInCup", cls.name, "native")[0]
    both = lambda beta, **options: replace(flow, beta=beta, objective=cls(**options))
    for beta in (0.05, "auto"):
        with pytest.raises(ValueError, match=f"--objective.kl k1 is not allowed: k2 or k3 with --beta {beta}, off"):
            both(beta, kl="k1", kl_weight=0.1)
    both(0.0, kl="k1", kl_weight=0.1)
    both(0.05, kl="k1", kl_weight=None)  # no KL at all
    both(0.05, kl="k1", kl_weight=0.0)
    both(0.05, kl="k3", kl_weight=0.1)


def test_an_estimator_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"--objective.kl k4 is not allowed: one of k2, k1, k3"):
        Espo(kl="k4").validate()  # pyright: ignore


def test_a_reference_is_asked_for_only_by_a_kl():
    assert Espo().needs_reference and not RATIO.needs_reference


def test_its_presets_draw_in_antithetic_pairs_and_keep_the_last_policy_as_reference():
    for preset in ("paper", "cpu", "smoke"):
        config = make_config(preset, "BallInCup", "espo", "native")[0]
        assert config.policy.draws == "antithetic" and config.needs_reference
        assert config.learning.reference_decay == 0.0


def test_ratios_that_would_overflow_have_finite_gradients():
    for new in (-1e4, 1e4):
        gradient = gradient_of(RATIO, np.full((2, 4), new), np.ones((2, 4)), np.array([-1.0, 1.0]))
        assert jnp.isfinite(gradient).all()
    # a bad sample that became e^20 times as likely is pushed back, not let go: rho |A| / (B N)
    far = gradient_of(RATIO, np.full((1, 4), -1e4), np.ones((1, 4)), -np.ones(1))
    assert_allclose(far, -np.exp(20.0) / 4, rtol=1e-3)
    assert_array_equal(gradient_of(RATIO, np.full((1, 4), -1e4), np.ones((1, 4)), np.ones(1)), 0.0)
