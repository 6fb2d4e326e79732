"""Where (t, eps) are placed, and that every placement estimates what it claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import (
    PLACEMENTS,
    draw_weights,
    evaluation_times,
    gauss_legendre,
    sample_draws,
    time_grid,
    to_log_uniform,
)

TIMES = evaluation_times(time_grid(10, kind="uniform"), method="euler")


def draw(placement, num_draws=8, batch=4000, t_min=0.0, seed=0):
    return sample_draws(jax.random.key(seed), (batch,), num_draws, 2, placement=placement, times=TIMES, t_min=t_min)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_has_the_shapes_of_the_contract_and_weights_that_sum_to_one(placement):
    draws = sample_draws(jax.random.key(0), (3, 5), 8, 2, placement=placement, times=TIMES)
    assert draws.t.shape == (3, 5, 8) and draws.eps.shape == (3, 5, 8, 2)
    assert draws.t.dtype == draws.eps.dtype == jnp.float32
    assert float(draw_weights(placement, 8).sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("placement", [p for p in PLACEMENTS if p != "grid"])
def test_every_placement_estimates_the_integral_of_t_squared_times_eps_squared_over_time(placement):
    draws = draw(placement)
    per_action = (draws.t**2 * draws.eps[..., 0] ** 2) @ draw_weights(placement, 8)
    error = float(jnp.std(per_action)) / np.sqrt(per_action.size)
    assert float(per_action.mean()) == pytest.approx(1.0 / 3.0, abs=4 * error)


def test_the_grid_holds_the_times_at_which_the_sampler_evaluates_the_velocity_equally_often():
    times, counts = np.unique(np.asarray(draw("grid").t), return_counts=True)
    np.testing.assert_allclose(times, np.arange(1, 11) / 10, atol=1e-6)  # 1 is one of them, 0 is not
    assert np.all(np.abs(counts - 3200) < 4 * np.sqrt(3200))


def test_stratified_draws_put_one_time_into_each_of_n_equal_strata():
    t = np.sort(np.asarray(draw("stratified").t), axis=-1)
    np.testing.assert_array_equal(np.floor(t * 8 * (1 - 1e-7)), np.broadcast_to(np.arange(8), t.shape))
    np.testing.assert_allclose(np.diff(t, axis=-1), 1 / 8, atol=1e-6)


def test_antithetic_draws_come_in_mirrored_pairs():
    draws = draw("antithetic", t_min=0.2)
    np.testing.assert_allclose(draws.t[:, :4] + draws.t[:, 4:], 1.2, atol=1e-6)
    np.testing.assert_array_equal(draws.eps[:, :4], -draws.eps[:, 4:])


def test_antithetic_draws_integrate_odd_functions_without_error():
    draws = draw("antithetic")
    odd = (draws.t - 0.5) ** 2 * draws.eps[..., 0]  # even in t - 1/2, odd in eps: each pair cancels
    np.testing.assert_allclose(odd.sum(-1), 0.0, atol=1e-6)


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5])
def test_gauss_legendre_is_exact_up_to_degree_2n_minus_1_and_no_further(num_nodes):
    nodes, weights = gauss_legendre(num_nodes)
    for degree in range(2 * num_nodes):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert abs(weights @ nodes ** (2 * num_nodes) - 1 / (2 * num_nodes + 1)) > 1e-6


def test_gauss_legendre_nodes_are_those_of_gdpo():
    nodes, weights = gauss_legendre(4)
    np.testing.assert_allclose(nodes, [0.0694318442, 0.3300094782, 0.6699905218, 0.9305681558], atol=1e-10)
    np.testing.assert_allclose(weights, [0.1739274226, 0.3260725774, 0.3260725774, 0.1739274226], atol=1e-10)
    np.testing.assert_allclose(draw("gauss-legendre", 2).t[0], [0.2113248654, 0.7886751346], atol=1e-7)


@pytest.mark.parametrize("placement", [p for p in PLACEMENTS if p != "grid"])
def test_no_draw_lies_below_t_min(placement):
    t = draw(placement, t_min=0.3).t
    assert float(t.min()) >= 0.3 and float(t.max()) <= 1.0
    assert float(t.mean()) == pytest.approx(0.65, abs=0.01)


def test_the_log_uniform_map_keeps_strata_in_log_time():
    draws = to_log_uniform(draw("stratified"), delta=0.01)
    t = np.sort(np.asarray(draws.t, np.float64), axis=-1)
    np.testing.assert_allclose(np.diff(np.log(t), axis=-1), np.log(100) / 8, atol=1e-4)
    assert t.min() >= 0.01 * (1 - 1e-5) and t.max() <= 1.0


def test_another_key_gives_other_draws():
    assert not bool(jnp.any(draw("monte-carlo").t == draw("monte-carlo", seed=1).t))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"placement": "sobol"}, "placement 'sobol'"),
        ({"placement": "antithetic", "num_draws": 3}, "num_draws 3 must be even"),
        ({"placement": "grid", "times": None}, "needs times"),
        ({"placement": "grid", "t_min": 0.1}, "t_min 0.1"),
        ({"placement": "monte-carlo", "num_draws": 0}, "num_draws 0"),
        ({"placement": "monte-carlo", "t_min": 1.0}, "t_min 1.0"),
        ({"placement": "monte-carlo", "t_min": float("nan")}, "t_min nan"),
        ({"placement": "monte-carlo", "action_size": 0}, "action_size 0"),
    ],
)
def test_an_illegal_argument_is_named_with_its_value(arguments, message):
    defaults = {"num_draws": 4, "action_size": 2, "times": TIMES}
    merged = {**defaults, **arguments}
    with pytest.raises(ValueError, match=message):
        sample_draws(jax.random.key(0), (2,), merged.pop("num_draws"), merged.pop("action_size"), **merged)
