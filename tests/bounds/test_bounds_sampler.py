"""The sampler: exactness, order of convergence, and the contraction of docs/bounds.md."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import METHODS, evaluation_times, gaussian_velocity, integrate, time_grid
from dipod_jax.bounds.sampler import step

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2}


def contraction(std, num_steps, method="euler", kind="uniform"):
    """Standard deviation that the sampler of the optimal field of N(0, std^2) returns, over std."""
    times = time_grid(num_steps, kind=kind, data_std=std)
    field = lambda x, t: gaussian_velocity(std, x, x, t)
    return float(integrate(field, jnp.ones((1, 1)), times, method=method)[0, 0]) / std


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["uniform", "refined"])
def test_evaluation_times_are_those_at_which_the_sampler_asks_for_the_velocity(method, kind):
    times, asked = time_grid(5, kind=kind), []

    def velocity(x, t):
        asked.append(float(t))
        return x

    x = jnp.ones(2)
    for t, t_next in itertools.pairwise(times):
        x = step(velocity, x, t, t_next, method=method)
    expected = sorted(set(np.float32(asked)), reverse=True)
    np.testing.assert_allclose(evaluation_times(times, method=method), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("num_steps", "ratios"),
    [
        (5, [0.194, 0.360, 0.666, 0.739, 0.771, 0.739, 0.627]),
        (10, [0.398, 0.617, 0.823, 0.862, 0.879, 0.862, 0.802]),
        (20, [0.640, 0.796, 0.908, 0.929, 0.938, 0.929, 0.897]),
        (64, [0.877, 0.933, 0.970, 0.977, 0.980, 0.977, 0.967]),
    ],
)
def test_euler_contracts_gaussian_actions_by_the_factors_of_m5(num_steps, ratios):
    stds = [0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0]
    np.testing.assert_allclose([contraction(s, num_steps) for s in stds], ratios, atol=6e-4)


@pytest.mark.parametrize("std", [0.05, 0.3, 1.0])
def test_the_refined_grid_contracts_by_exp_of_minus_pi_squared_over_8k_at_any_spread(std):
    assert contraction(std, 10, kind="refined") == pytest.approx(np.exp(-(np.pi**2) / 80), abs=0.01)


@pytest.mark.parametrize("method", ["midpoint", "heun"])
def test_second_order_removes_nearly_all_of_the_contraction(method):
    assert abs(contraction(0.3, 10, method) - 1.0) < 0.02 < 1.0 - contraction(0.3, 20)


def test_the_uniform_grid_has_equal_steps_and_the_refined_one_small_steps_near_zero():
    np.testing.assert_allclose(time_grid(4, kind="uniform"), [1.0, 0.75, 0.5, 0.25, 0.0])
    times = np.asarray(time_grid(10, kind="refined", data_std=0.1))
    assert times[0] == 1.0 and times[-1] == 0.0 and np.all(np.diff(times) < 0.0)
    assert np.all(np.diff(np.diff(times)) > 0.0)  # every step is shorter than the one before


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_error_against_diffrax_shrinks_with_the_order_of_the_method(method):
    import diffrax

    with jax.enable_x64(True):
        matrix = jnp.asarray([[0.3, -1.1], [0.8, 0.5]])
        field = lambda x, t: jnp.tanh(x @ matrix) * (1.0 + jnp.sin(3.0 * t)) - 0.5 * x * t
        start = jnp.asarray([[0.7, -1.2]])
        reference = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y, t)),
            diffrax.Dopri8(),
            t0=1.0,
            t1=0.0,
            dt0=-0.01,
            y0=start,
            stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-12),
        ).ys[0]
        errors = []
        for num_steps in (20, 40, 80):
            times = jnp.linspace(1.0, 0.0, num_steps + 1)
            errors.append(float(jnp.abs(integrate(field, start, times, method=method) - reference).max()))
        slopes = -np.diff(np.log2(errors))
        np.testing.assert_allclose(slopes, ORDERS[method], atol=0.12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exact_for_a_constant_velocity_and_keeps_its_whole_path(method):
    start = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    times = time_grid(5, kind="refined")
    path = integrate(lambda x, t: jnp.ones_like(x), start, times, method=method, return_path=True)
    assert path.shape == (6, 2, 2)
    np.testing.assert_allclose(path, start - (1.0 - times)[:, None, None], atol=1e-6)
    np.testing.assert_array_equal(path[-1], integrate(lambda x, t: jnp.ones_like(x), start, times, method=method))


def test_euler_asks_for_the_velocity_at_the_starting_time_of_each_step():
    got = integrate(lambda x, t: t * jnp.ones_like(x), jnp.zeros(1), time_grid(4, kind="uniform"), method="euler")
    assert float(got[0]) == pytest.approx(-(1.0 + 0.75 + 0.5 + 0.25) / 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: time_grid(0, kind="uniform"),
        lambda: time_grid(10, kind="cosine"),
        lambda: time_grid(10, kind="refined", data_std=float("nan")),
        lambda: integrate(lambda x, t: x, jnp.zeros(1), time_grid(2, kind="uniform"), method="rk4"),
    ],
)
def test_an_illegal_grid_or_method_is_refused(call):
    with pytest.raises(ValueError, match=r"num_steps 0|'cosine'|data_std nan|'rk4'"):
        call()
