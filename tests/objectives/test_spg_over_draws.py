"""SPG against loops in float64, closed forms of its limits, and what bounds a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import assert_on_all_sides, gradient_of, loss_of, numerical_gradient, random_batch, scores

from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.spg import Spg
from dipod_jax.presets import make_config

EPS = 0.05


def surrogate(losses, advantage, order, mix):
    """S of one action: the ELBO where A > 0, else omega EUBO + (1 - omega) ELBO (arXiv 2510.09541, eqs. 7-8)."""
    lower = -np.mean(losses)
    upper = np.log(np.mean([np.exp(-order * loss) for loss in losses])) / order
    return lower if advantage > 0 else mix * upper + (1 - mix) * lower


def changes(new, old, advantage):
    """(B,) S_new - S_old for the default order and mix."""
    s_new, s_old = ([surrogate(l, a, 1.5, 0.5) for l, a in zip(x, advantage, strict=True)] for x in (new, old))
    return np.subtract(s_new, s_old)


def expected(new, old, advantage, *, order=1.5, mix=0.5, ratio="clipped", offset=0.0):
    """The loss, action by action; `offset` (B,), a constant, takes the place of a bound on log ratios."""
    total, offset = 0.0, np.broadcast_to(offset, len(advantage))
    for l_new, l_old, a, moved in zip(new, old, advantage, offset, strict=True):
        s_new, s_old = (surrogate(losses, a, order, mix) for losses in (l_new, l_old))
        rho = np.exp(s_new - s_old + moved)
        total -= a * s_new if ratio == "none" else min(rho * a, min(max(rho, 1 - EPS), 1 + EPS) * a)
    return total / len(advantage)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ratio": "none"}, {"order": 4.0, "mix": 0.9}, {"bound": 0.02}])
def test_value_and_gradient_equal_a_float64_loop(options):
    new, old, advantage = random_batch()
    names, options, offset = {"order": "eubo_order", "bound": "log_ratio_clip"}, dict(options), 0.0
    objective = Spg(**{names.get(name, name): value for name, value in options.items()})
    if (bound := options.pop("bound", None)) is not None:
        change = changes(new, old, advantage)
        assert_on_all_sides(change, -bound, bound)
        offset = np.clip(change, -bound, bound) - change  # its gradient is straight-through
    formula = lambda n: expected(n, old, advantage, offset=offset, **options)
    assert_allclose(loss_of(objective, new, old, advantage), formula(new), rtol=2e-4)
    assert_allclose(gradient_of(objective, new, old, advantage), numerical_gradient(formula, new), rtol=2e-3, atol=1e-6)


def test_without_a_ratio_a_bad_action_weighs_its_draws_by_the_softmax_of_their_scores():
    """d/dl_n of -A U = A (omega softmax_n(b e) + (1 - omega) / N), by hand for losses log 1 and log 3, b = 1:
    softmax (3/4, 1/4), omega .5: (5/8, 3/8)."""
    losses = np.log([[1.0, 3.0]])
    gradient = gradient_of(Spg(eubo_order=1.0, ratio="none"), losses, losses, np.array([-2.0]))
    assert_allclose(gradient, -2.0 * np.array([[5 / 8, 3 / 8]]), rtol=1e-5)
    good = gradient_of(Spg(eubo_order=1.0, ratio="none"), losses, losses, np.array([2.0]))
    assert_allclose(good, 2.0 * np.array([[0.5, 0.5]]), rtol=1e-5)


@pytest.mark.parametrize("ratio", ["clipped", "none"])
def test_where_all_is_better_than_expected_it_is_fpo(ratio):
    new, old, advantage = random_batch()
    good = np.abs(advantage)
    ours = gradient_of(Spg(ratio=ratio), old, old, good)
    assert_allclose(ours, gradient_of(Fpo(), old, old, good), rtol=1e-4)
    if ratio == "clipped":
        assert_allclose(loss_of(Spg(), new, old, good), loss_of(Fpo(), new, old, good), rtol=1e-5)


@pytest.mark.parametrize("options", [{"mix": 0.0}, {"eubo_order": 1e-3, "mix": 1.0}])
def test_without_a_eubo_or_with_one_of_order_near_zero_it_is_fpo(options):
    new, old, advantage = random_batch()
    assert_allclose(loss_of(Spg(**options), new, old, advantage), loss_of(Fpo(), new, old, advantage), rtol=2e-3)


@pytest.mark.slow
def test_the_sandwich_has_a_width_from_two_draws_on_and_none_with_one():
    new, old, advantage = random_batch()
    width = lambda draws: Spg(mix=1.0)(scores(new[:, :draws]), scores(old[:, :draws]), None, advantage)[1]
    assert float(width(8)["sandwich_width"]) > 0.01
    assert_allclose(width(1)["sandwich_width"], 0.0, atol=1e-6)


@pytest.mark.slow
def test_an_upper_bound_of_the_policy_stands_in_for_the_estimate():
    """A = (1, -1), ELBO (-1, -1), upper bound (-.5, -.5), omega .5: S = (-1, -.75), loss = -(-1 + .75) / 2."""
    given = scores([[1.0], [1.0]], upper=jnp.array([0.5, 0.5]))
    advantage = jnp.array([1.0, -1.0])
    loss_fn = lambda upper: Spg(ratio="none")(given._replace(upper=upper), given, None, advantage)[0]
    assert_allclose(loss_fn(given.upper), 0.125)
    assert_allclose(jax.grad(loss_fn)(given.upper), [0.0, -0.25])
    ratio = Spg(mix=1.0, log_ratio_clip=None)
    moved = ratio(given._replace(upper=given.upper - 0.02), given, None, advantage)[0]
    assert_allclose(moved, -(1.0 - np.exp(0.02)) / 2, rtol=1e-4)  # rho = exp(U_new - U_old) of the bad action alone


@pytest.mark.slow
@pytest.mark.parametrize("ratio", ["clipped", "none"])
def test_a_score_that_is_not_known_takes_no_part(ratio):
    _, old, advantage = random_batch(num_draws=1, size=4)
    assert (np.asarray(gradient_of(Spg(ratio=ratio), old, old, advantage)) != 0.0).all()
    old[1] = np.nan
    given = scores(old)
    ours = lambda loss: Spg(ratio=ratio)(given._replace(loss=loss), given, None, jnp.asarray(advantage))[0]
    assert_array_equal(jax.grad(ours)(given.loss)[:, 0] != 0.0, [True, False, True, True])


@pytest.mark.parametrize("change", [-1e4, 1e4])
def test_losses_that_ran_away_have_finite_gradients_and_are_let_go_only_past_the_clip(change):
    old, advantage = np.ones((2, 8)), np.array([-1.0, 1.0])
    gradient = gradient_of(Spg(), old + change, old, advantage)
    assert np.isfinite(gradient).all()
    lets_go = [change > 0, change < 0]  # a bad action that got unlikely, a good one that got likely
    assert_array_equal(np.asarray(gradient).any(-1), np.logical_not(lets_go))


def test_it_starts_from_eight_draws_in_every_preset():
    for preset in ("paper", "cpu", "smoke"):
        assert make_config(preset, "BallInCup", "spg", "native")[0].policy.num_draws >= 8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mix": 1.5}, "--objective.mix 1.5 is not allowed"),
        ({"eubo_order": 0.0}, "--objective.eubo-order 0.0 is not allowed"),
        ({"clip_epsilon": 0.0}, "--objective.clip-epsilon 0.0 is not allowed"),
        ({"ratio": "soft"}, "--objective.ratio soft is not allowed"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        Spg(**options).validate()


def test_the_floats_among_its_options_are_leaves():
    assert len(jax.tree.leaves(Spg())) == 4 and len(jax.tree.leaves(Spg(log_ratio_clip=None))) == 3
