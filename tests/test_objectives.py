"""Objectives against arithmetic by hand, an independent float64 numpy implementation, and their common contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.config import Config, FpoConfig
from dipod_jax.objectives import (
    OBJECTIVES,
    dipod_loss,
    fpo_loss,
    log_ratio,
    make_objective,
    ppo_clip,
    ppo_loss,
    spo_penalty,
)

EPS = 0.05


def random_batch(num_draws=8, size=64, scale=0.1):
    rng = np.random.default_rng(0)
    old = rng.uniform(0.2, 2.0, (size, num_draws))
    return old + scale * rng.standard_normal(old.shape), old, rng.standard_normal(size)


def as_jax(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


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
    options = dict(average_draws=average, asymmetric=asymmetric, log_ratio_clip=bound)
    result = fpo_loss(*as_jax(new, old, advantage), clip_epsilon=EPS, **options)
    assert_allclose(result, numpy_fpo(new, old, advantage, average, asymmetric, bound), rtol=1e-5)


def test_ppo_equals_fpo_of_one_draw():
    new, old, advantage = as_jax(*random_batch(num_draws=1))
    assert_array_equal(ppo_loss(new, old, advantage, clip_epsilon=EPS), fpo_loss(new, old, advantage, clip_epsilon=EPS))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 2.0, -2.4),  # min(1.5 * 2, 1.2 * 2)
        (0.5, 2.0, -1.0),  # min(.5 * 2, .8 * 2)
        (1.5, -2.0, 3.0),  # min(1.5 * -2, 1.2 * -2)
        (0.5, -2.0, 1.6),  # min(.5 * -2, .8 * -2)
    ],
)
def test_ppo_clip_by_hand(ratio, advantage, expected):
    assert_allclose(ppo_clip(jnp.float32(ratio), jnp.float32(advantage), 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.5, 2.0, 0.0), (0.5, 2.0, -2.0), (1.5, -2.0, 2.0), (0.5, -2.0, 0.0), (1.0, 2.0, -2.0)],
)
def test_ppo_clip_lets_go_only_past_the_clip_that_the_advantage_favours(ratio, advantage, gradient):
    assert_allclose(jax.grad(ppo_clip)(jnp.float32(ratio), jnp.float32(advantage), 0.2), gradient, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"average_draws": False}, {"asymmetric": True}, {"average_draws": False, "log_ratio_clip": 3.0}]
)
def test_at_the_acting_parameters_every_ratio_is_one_and_the_gradient_is_that_of_the_advantage_weighted_loss(options):
    _, old, advantage = as_jax(*random_batch())
    for average in (True, False):
        assert_array_equal(jnp.exp(log_ratio(old, old, average_draws=average, log_ratio_clip=None)), 1.0)
    value, gradient = jax.value_and_grad(fpo_loss)(old, old, advantage, clip_epsilon=EPS, **options)
    assert_allclose(value, -advantage.mean(), rtol=1e-5)
    # d/dl mean_{B,N} A l = A / (B N), whichever way the draws are averaged
    assert_allclose(gradient, jnp.broadcast_to(advantage[:, None] / old.size, old.shape), rtol=1e-5)


def test_per_draw_ratios_bound_the_averaged_ratio_from_above():
    new, old, _ = as_jax(*random_batch(scale=1.0))
    per_draw = jnp.exp(log_ratio(new, old, average_draws=False, log_ratio_clip=None)).mean(-1)
    averaged = jnp.exp(log_ratio(new, old, average_draws=True, log_ratio_clip=None))[:, 0]
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
    new, old, advantage = as_jax(*random_batch())
    good = jnp.abs(advantage)
    plain, asymmetric = (fpo_loss(new, old, good, clip_epsilon=EPS, asymmetric=a) for a in (False, True))
    assert_array_equal(plain, asymmetric)


@pytest.mark.parametrize("difference", [-10.0, 10.0])
def test_log_ratio_clip_bounds_the_value_and_keeps_the_gradient(difference):
    clipped = lambda new: log_ratio(new, jnp.zeros(1), average_draws=False, log_ratio_clip=3.0)[0]
    value, gradient = jax.value_and_grad(clipped)(jnp.array([-difference]))
    assert_allclose(value, np.sign(difference) * 3.0, rtol=1e-6)
    assert_array_equal(gradient, [-1.0])


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_clamped_loss_stops_the_gradient_of_bad_samples_alone(asymmetric):
    # (old, new): both under the clamp, the new over it, the old over it, both; a good sample counts wherever it is
    old = jnp.array([[1.0, 1.1], [2.9, 2.9], [3.2, 3.0], [9.0, 9.0], [9.0, 9.0]])
    new = old + jnp.array([0.0, 0.2, -0.4, 0.0, 0.0])[:, None]
    advantage = jnp.array([-1.0, -1.0, -1.0, -1.0, 1.0])
    loss = lambda new: fpo_loss(new, old, advantage, clip_epsilon=0.05, asymmetric=asymmetric, negative_loss_clamp=3.0)
    assert_array_equal(jax.grad(loss)(new).any(-1), [True, False, False, False, True])
    # where nothing is over it, it changes nothing
    plain = fpo_loss(new[:1], old[:1], advantage[:1], clip_epsilon=0.05, asymmetric=asymmetric)
    clamped = fpo_loss(
        new[:1], old[:1], advantage[:1], clip_epsilon=0.05, asymmetric=asymmetric, negative_loss_clamp=3.0
    )
    assert_array_equal(plain, clamped)


@pytest.mark.parametrize("beta", [0.0, 0.002, 0.5])
def test_dipod_adds_beta_times_the_gradient_of_the_mean_loss(beta):
    new, old, advantage = as_jax(*random_batch())
    base = lambda l: fpo_loss(l, old, advantage, clip_epsilon=EPS)
    with_dipod = lambda l: base(l) + dipod_loss(l, beta)
    assert_allclose(dipod_loss(new, beta), beta * np.mean(new), rtol=1e-6)
    added = jax.grad(with_dipod)(new) - jax.grad(base)(new)
    assert_allclose(added, np.full(new.shape, beta / new.size), rtol=1e-3, atol=1e-9)  # all samples, none clipped


def test_dipod_shifts_the_advantage_at_the_acting_parameters():
    _, old, advantage = as_jax(*random_batch())
    regularised = jax.grad(lambda l: fpo_loss(l, old, advantage, clip_epsilon=EPS) + dipod_loss(l, 0.3))(old)
    shifted = jax.grad(lambda l: fpo_loss(l, old, advantage + 0.3, clip_epsilon=EPS))(old)
    assert_allclose(regularised, shifted, rtol=1e-4, atol=1e-8)


def configs_of(name):
    """Every combination of options of one objective."""
    if name != "fpo":
        return [Config(objective=name)]
    return [
        Config(fpo=FpoConfig(ratio=ratio, negative_advantages=bad, log_ratio_clip=bound))
        for ratio in ("average", "per-draw")
        for bad in ("clip", "spo")
        for bound in (None, 3.0)
        if bad == "clip" or bound is not None
    ]


CONTRACT = [(name, config) for name in OBJECTIVES for config in configs_of(name)]
CONTRACT_IDS = [f"{n}-{c.fpo.ratio}-{c.fpo.negative_advantages}-{c.fpo.log_ratio_clip}" for n, c in CONTRACT]


@pytest.mark.parametrize(("name", "config"), CONTRACT, ids=CONTRACT_IDS)
def test_contract_of_every_objective(name, config):
    objective = make_objective(config)
    new, old, advantage = as_jax(*random_batch(num_draws=8 if name == "fpo" else 1))
    loss = lambda n, o, a: objective(n, o, a, clip_epsilon=jnp.float32(EPS))

    assert loss(new, old, advantage).shape == ()
    # (T, B) batches are means over all entries: the order and the shape of the batch do not matter
    folded = loss(new.reshape(4, 16, -1), old.reshape(4, 16, -1), advantage.reshape(4, 16))
    assert_allclose(folded, loss(new, old, advantage), rtol=1e-5)
    # no advantage, no loss and no gradient
    value, gradient = jax.value_and_grad(loss)(new, old, jnp.zeros_like(advantage))
    assert value == 0.0
    assert_array_equal(gradient, 0.0)
    # at theta_old a better sample's loss is lowered and a worse one's raised
    step = jax.grad(loss)(old, old, advantage)
    assert_array_equal(jnp.sign(step), jnp.broadcast_to(jnp.sign(advantage)[:, None], step.shape))
    # a loss per draw on both sides, or nothing
    with pytest.raises(AssertionError):
        loss(new[:, :0], old, advantage)


@pytest.mark.parametrize(
    ("name", "config"),
    [(n, c) for n, c in CONTRACT if n == "fpo" and c.fpo.log_ratio_clip is not None],
    ids=[i for i, (n, c) in zip(CONTRACT_IDS, CONTRACT, strict=True) if n == "fpo" and c.fpo.log_ratio_clip],
)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_gradients_are_finite_at_extreme_losses_where_the_log_ratio_is_clipped(name, config, extreme, sign):
    old = jnp.full((4, 8), 1.0)
    objective = lambda n: make_objective(config)(n, old, sign * jnp.ones(4), clip_epsilon=EPS)
    value, gradient = jax.value_and_grad(objective)(old + extreme)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_aspo_pulls_a_runaway_bad_sample_back_through_the_clip():
    """A bad sample whose loss ran away has the ratio e^-3 after the clip: its loss must be pushed down, not let go."""
    config = Config(fpo=FpoConfig(negative_advantages="spo", log_ratio_clip=3.0))
    old = jnp.ones((1, 8))
    gradient = jax.grad(lambda n: make_objective(config)(n, old, -jnp.ones(1), clip_epsilon=EPS))(old + 50.0)
    # d/dl = -rho * d(penalty)/d(rho) / N, rho = e^-3, d(penalty)/d(rho) = 1 + (rho - 1) / eps
    rho = np.exp(-3.0)
    assert_allclose(gradient, np.full((1, 8), -rho * (1 + (rho - 1) / EPS) / 8), rtol=1e-4)
    assert (gradient > 0).all()
