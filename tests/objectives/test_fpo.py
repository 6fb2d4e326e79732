"""FPO, FPO++'s trust region and DiPOD's shift, by hand and against an independent float64 implementation."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import (
    as_jax,
    assert_clipped_and_not,
    assert_on_all_sides,
    gradient_of,
    loss_of,
    numerical_gradient,
    random_batch,
    scores,
)

from dipod_jax.objectives.fpo import Fpo, aspo, spo_penalty
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.regularisers import Terms
from dipod_jax.regularisers.dipod import Dipod

EPS = 0.05
RATIOS = {True: "average", False: "per-draw"}


def make_fpo(average=True, asymmetric=False, bound=None, **options):
    bad = "spo" if asymmetric else "clip"
    options = {"clip_epsilon": EPS} | options
    return Fpo(ratio=RATIOS[average], negative_advantages=bad, log_ratio_clip=bound, **options)


# Every combination of options: the quadratic pull needs a bound on the log ratio.
COMBINATIONS = [c for c in product((True, False), (False, True), (None, 3.0)) if not (c[1] and c[2] is None)]
BOUNDED = [c for c in COMBINATIONS if c[2] is not None]


def numpy_fpo(new, old, advantage, average, asymmetric, bound):
    """FPO (arXiv 2507.21053, Alg. 1) and FPO++'s ASPO, written as loops over samples and draws in float64."""
    total = []
    for l_new, l_old, a in zip(new, old, advantage, strict=True):
        differences = [np.mean(l_old - l_new)] if average else list(l_old - l_new)
        for d in differences:
            rho = np.exp(d if bound is None else min(max(d, -bound), bound))
            if asymmetric and a < 0:
                total.append(-(rho * a - abs(a) / (2 * EPS) * (rho - 1) ** 2))
            else:
                total.append(-min(rho * a, min(max(rho, 1 - EPS), 1 + EPS) * a))
    return np.mean(total)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("bound", [None, 0.07])
def test_fpo_equals_an_independent_float64_loop(average, asymmetric, bound):
    new, old, advantage = random_batch()
    result = loss_of(make_fpo(average, asymmetric, bound), new, old, advantage)
    assert_allclose(result, numpy_fpo(new, old, advantage, average, asymmetric, bound), rtol=1e-5)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(("asymmetric", "bound", "clamp"), [(False, None, None), (False, 0.1, None), (True, 0.1, 1.2)])
def test_its_gradient_is_that_of_the_formula_where_ratios_are_clipped_and_where_not(average, asymmetric, bound, clamp):
    """To the gradient the bound on the log ratio is a constant offset, and the clamp an advantage of zero."""
    new, old, advantage = random_batch(scale=0.3)
    log_ratio = (old - new).mean(-1, keepdims=True) if average else old - new
    assert_clipped_and_not(log_ratio, advantage[:, None], EPS)
    offset, credit = 0.0, advantage
    if bound is not None:
        assert_on_all_sides(log_ratio, -bound, bound)
        offset = np.clip(log_ratio, -bound, bound) - log_ratio
    if clamp is not None:
        highest = np.maximum(new.mean(-1), old.mean(-1))
        assert_on_all_sides(highest[advantage < 0.0], clamp)
        credit = np.where((advantage < 0.0) & (highest > clamp), 0.0, advantage)
    objective = make_fpo(average, asymmetric, bound, negative_loss_clamp=clamp)
    formula = lambda n: numpy_fpo(n, old + offset, credit, average, asymmetric, None)
    assert_allclose(loss_of(objective, new, old, advantage), formula(new), rtol=1e-5)
    gradient = gradient_of(objective, new, old, advantage)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("average", "asymmetric", "bound"),
    [(True, False, None), (False, False, None), (True, True, 3.0), (False, False, 3)],
)
def test_at_the_acting_parameters_every_ratio_is_one_and_the_gradient_is_that_of_the_advantage_weighted_loss(
    average, asymmetric, bound
):
    _, old, advantage = random_batch()
    objective = make_fpo(average, asymmetric, bound)
    value, metrics = objective(scores(old), scores(old), None, jnp.float32(advantage))
    assert metrics["first_ratio_error"] == 0.0 and metrics["clip_fraction"] == 0.0
    assert_allclose(value, -advantage.mean(), rtol=1e-5)
    # d/dl mean_{B,N} A l = A / (B N), whichever way the draws are averaged
    expected = np.broadcast_to(advantage[:, None] / old.size, old.shape)
    assert_allclose(gradient_of(objective, old, old, advantage), expected, rtol=1e-5)


def ratio_of(objective, new, old):
    """(B,) mean ratio of each sample: within an unbounded trust region the loss of advantage 1 is minus the ratio."""
    return jnp.stack([-loss_of(objective, n[None], o[None], jnp.ones(1)) for n, o in zip(new, old, strict=True)])


def test_per_draw_ratios_bound_the_averaged_ratio_from_above():
    new, old, _ = random_batch(scale=1.0, size=8)
    per_draw, averaged = (ratio_of(make_fpo(average, clip_epsilon=1e6), new, old) for average in (False, True))
    assert (per_draw > averaged).all()  # Jensen, strict where draws differ


def test_spo_has_no_gradient_at_the_edge_of_the_trust_region_and_pulls_back_from_beyond():
    slope = jax.grad(spo_penalty)
    at = lambda ratio, advantage: float(slope(jnp.float32(ratio), jnp.float32(advantage), EPS))
    assert_allclose(at(1 - EPS, -3.0), 0.0, atol=1e-5)
    assert_allclose(at(1 + EPS, 3.0), 0.0, atol=1e-5)
    # -(A - |A| (rho - 1) / eps) = -(-3 - 3 * (-.1) / .05) = -3: descent raises a ratio that fell to .9
    assert_allclose(at(0.9, -3.0), -3.0, rtol=1e-4)
    assert_allclose(at(1.0, -3.0), 3.0, rtol=1e-6)  # inside, descent lowers the ratio of a bad sample
    assert_allclose(at(1.1, 3.0), 3.0, rtol=1e-4)


def test_aspo_keeps_ppo_for_good_samples():
    new, old, advantage = random_batch()
    good = np.abs(advantage)
    plain, asymmetric = (loss_of(make_fpo(asymmetric=a, bound=3.0), new, old, good) for a in (False, True))
    assert_array_equal(plain, asymmetric)
    ratio = jnp.exp(jnp.float32(old - new))
    assert_array_equal(aspo(ratio, 1.0, EPS), ppo_clip(ratio, 1.0, EPS))


@pytest.mark.parametrize("difference", [-10.0, 10.0])
def test_log_ratio_clip_bounds_the_value_and_keeps_the_gradient(difference):
    objective = make_fpo(average=False, bound=3.0, clip_epsilon=1e6)
    new, old = np.array([[-difference]]), np.zeros((1, 1))
    rho = np.exp(np.sign(difference) * 3.0)
    assert_allclose(loss_of(objective, new, old, np.ones(1)), -rho, rtol=1e-6)
    # loss = -exp(bounded): the gradient in the log ratio is the loss itself, and d log ratio / d new is -1
    assert_allclose(gradient_of(objective, new, old, np.ones(1)), [[rho]], rtol=1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_clamped_loss_stops_the_gradient_of_bad_samples_alone(asymmetric):
    # (old, new): both under the clamp, the new over it, the old over it, both; a good sample counts wherever it is
    old = np.array([[1.0, 1.1], [2.9, 2.9], [3.2, 3.0], [9.0, 9.0], [9.0, 9.0]])
    new = old + np.array([0.0, 0.2, -0.4, 0.0, 0.0])[:, None]
    advantage = np.array([-1.0, -1.0, -1.0, -1.0, 1.0])
    plain = make_fpo(asymmetric=asymmetric, bound=3.0 if asymmetric else None)
    clamped = make_fpo(asymmetric=asymmetric, bound=plain.log_ratio_clip, negative_loss_clamp=3.0)
    gradient = gradient_of(clamped, new, old, advantage)
    assert_array_equal(gradient.any(-1), [True, False, False, False, True])
    # where nothing is over it, it changes nothing
    assert_array_equal(*(loss_of(objective, new[:1], old[:1], advantage[:1]) for objective in (plain, clamped)))


def dipod(loss, beta):
    """DiPOD's term of losses (B, N)."""
    new = scores(loss)
    return Dipod(beta)(Terms(new._replace(bound=new.mean()), new, None, None))


@pytest.mark.parametrize("beta", [0.0, 0.002, 0.5])
def test_dipod_adds_beta_times_the_gradient_of_the_mean_loss(beta):
    new, old, advantage = as_jax(*random_batch())
    base = lambda l: loss_of(make_fpo(), l, old, advantage)
    with_dipod = lambda l: base(l) + dipod(l, beta)
    assert_allclose(dipod(new, beta), beta * np.mean(new), rtol=1e-6)
    added = jax.grad(with_dipod)(new) - jax.grad(base)(new)
    assert_allclose(added, np.full(new.shape, beta / new.size), rtol=1e-3, atol=1e-9)  # all samples, none clipped


def test_dipod_shifts_the_advantage_at_the_acting_parameters():
    _, old, advantage = as_jax(*random_batch())
    regularised = jax.grad(lambda l: loss_of(make_fpo(), l, old, advantage) + dipod(l, 0.3))(old)
    shifted = gradient_of(make_fpo(), old, old, advantage + 0.3)
    assert_allclose(regularised, shifted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("average", "asymmetric", "bound"), COMBINATIONS)
def test_every_combination_of_options_is_a_mean_over_the_batch_that_follows_the_advantage(average, asymmetric, bound):
    objective = make_fpo(average, asymmetric, bound)
    new, old, advantage = random_batch()
    loss = loss_of(objective, new, old, advantage)
    assert loss.shape == ()
    # (T, B) batches are means over all entries: the order and the shape of the batch do not matter
    folded = loss_of(objective, new.reshape(4, 16, -1), old.reshape(4, 16, -1), advantage.reshape(4, 16))
    assert_allclose(folded, loss, rtol=1e-5)
    # no advantage, no loss and no gradient
    assert loss_of(objective, new, old, np.zeros(64)) == 0.0
    assert_array_equal(gradient_of(objective, new, old, np.zeros(64)), 0.0)
    # at theta_old a better sample's loss is lowered and a worse one's raised
    step = gradient_of(objective, old, old, advantage)
    assert_array_equal(jnp.sign(step), np.broadcast_to(np.sign(advantage)[:, None], step.shape))
    # a loss per draw on both sides, or nothing
    with pytest.raises(AssertionError):
        loss_of(objective, new[:, :1], old, advantage)


@pytest.mark.parametrize(("average", "asymmetric", "bound"), BOUNDED)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_gradients_are_finite_at_extreme_losses_where_the_log_ratio_is_clipped(
    average, asymmetric, bound, extreme, sign
):
    objective, old, advantage = make_fpo(average, asymmetric, bound), np.ones((4, 8)), sign * np.ones(4)
    assert jnp.isfinite(loss_of(objective, old + extreme, old, advantage))
    assert jnp.isfinite(gradient_of(objective, old + extreme, old, advantage)).all()


def test_aspo_pulls_a_runaway_bad_sample_back_through_the_clip():
    """A bad sample whose loss ran away has the ratio e^-3 after the clip: its loss must be pushed down, not let go."""
    old = np.ones((1, 8))
    gradient = gradient_of(make_fpo(asymmetric=True, bound=3.0), old + 50.0, old, -np.ones(1))
    # d/dl = -rho * d(penalty)/d(rho) / N, rho = e^-3, d(penalty)/d(rho) = 1 + (rho - 1) / eps
    rho = np.exp(-3.0)
    assert_allclose(gradient, np.full((1, 8), -rho * (1 + (rho - 1) / EPS) / 8), rtol=1e-4)
    assert (gradient > 0).all()


def test_the_quadratic_pull_is_refused_without_a_bound_on_the_log_ratio():
    with pytest.raises(ValueError, match=r"--objective.negative-advantages spo is not allowed: clip, or with"):
        make_fpo(asymmetric=True).validate()
