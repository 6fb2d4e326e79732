"""Noisy steps against arithmetic by hand, Gaussian conditioning, and a Gaussian target's variance in closed form."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax.bounds import constant_noise, ddim, marginal_preserving, time_grid

TARGET = 0.3


def grid(num_steps):
    return np.linspace(1.0, 0.0, num_steps + 1)


def variances(transitions, times, target=TARGET):
    """Var x_k, k = 0 .. K, of the chain over the optimal field of N(0, target^2) (docs/bounds.md), in float64."""
    a, b, std = (np.float64(x) for x in transitions)
    t = times[:-1]
    field = (t - (1 - t) * target**2) / ((1 - t) ** 2 * target**2 + t**2)
    found = [1.0]
    for k in range(len(t)):
        found.append((a[k] + b[k] * field[k]) ** 2 * found[-1] + std[k] ** 2)
    return np.array(found)


def flow_variances(times, target=TARGET):
    return (1 - times) ** 2 * target**2 + times**2


def test_the_steps_of_the_sde_are_those_of_the_formula_by_hand():
    a, b, std = marginal_preserving(time_grid(2, kind="uniform"), level=0.7)
    # s = .7 sqrt(.5 / .5) at t = .5, and at t = 1 the same; s^2 / (2 t) = .245, .49; dt = -.5
    assert_allclose(a, [1 - 0.1225, 1 - 0.245], rtol=1e-6)
    assert_allclose(b, [-0.5, -0.5 * (1 + 0.49 * 0.5)], rtol=1e-6)
    assert_allclose(std, [0.7 * np.sqrt(0.5)] * 2, rtol=1e-6)


@pytest.mark.parametrize("level", [0.3, 0.7, 1.0])
def test_the_sde_keeps_the_marginals_of_the_flow(level):
    times = grid(2000)
    error = variances(marginal_preserving(times, level=level), times) / flow_variances(times) - 1
    assert abs(error[-1]) < 0.003
    assert np.abs(error[times <= 0.5]).max() < 0.01


def test_the_error_of_the_sdes_marginals_is_of_first_order():
    errors = [
        variances(marginal_preserving(grid(k), level=1.0), grid(k))[-1] / TARGET**2 - 1 for k in (500, 1000, 2000)
    ]
    assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2.0, rtol=0.2)


def test_the_sdes_first_steps_are_off_however_many_there_are():
    """Their noise is level^2 whatever K is: s_t^2 dt at t = 1 - 1/K."""
    for num_steps in (500, 2000):
        times = grid(num_steps)
        error = variances(marginal_preserving(times, level=0.7), times) / flow_variances(times) - 1
        assert_allclose(np.abs(error).max(), 0.095, rtol=0.02)
        assert times[np.abs(error).argmax()] > 0.98


def test_noise_without_the_sdes_drift_widens_the_marginals():
    times = grid(1000)
    std = marginal_preserving(times, level=0.7).std
    uncorrected = variances((np.ones(1000), np.diff(times), std), times)[-1]
    # V / V_t grows by s^2 / V_t, since V_t solves dV/dt = 2 c V: closed form in t, by quadrature, s^2 capped at t_1's
    t = np.linspace(0.0, 1.0, 200_001)
    diffusion = 0.49 * np.minimum(t, 0.999) / (1.0 - np.minimum(t, 0.999))
    assert_allclose(uncorrected / TARGET**2, 1.0 + np.trapezoid(diffusion / flow_variances(t), t), rtol=0.05)


def test_constant_noise_is_eulers_step_with_noise_on_top():
    a, b, std = constant_noise(time_grid(4, kind="uniform"), std=0.05)
    assert_allclose(a, 1.0)
    assert_allclose(b, -0.25)
    assert_allclose(std, 0.05)


def test_ddim_without_noise_is_eulers_step():
    a, b, std = ddim(grid(5), eta=0.0, floor=1e-3)
    assert_allclose(a, 1.0, rtol=1e-6)
    assert_allclose(b, -0.2, rtol=1e-6)
    assert_allclose(std, 1e-3)


def test_ddim_at_eta_one_is_the_posterior_of_the_forward_process():
    """Against conditioning of the joint Gaussian of (x_s, x_t) given x_0."""
    times = grid(5)
    a, b, std = (np.float64(x) for x in ddim(times, eta=1.0, floor=1e-3))
    for k, (t, s) in enumerate(itertools.pairwise(times[:-1])):
        decay = (1 - t) / (1 - s)  # x_t = decay x_s + noise, so that x_t has mean (1 - t) x_0 and std t
        covariance = np.array([[s**2, decay * s**2], [decay * s**2, t**2]])
        gain = covariance[0, 1] / covariance[1, 1]
        assert_allclose(std[k] ** 2, covariance[0, 0] - gain * covariance[0, 1], rtol=1e-5)
        # the posterior's mean at x_t = 0.7 and x_0 = -0.4, where the velocity is (x_t - x_0) / t
        mean = (1 - s) * -0.4 + gain * (0.7 - (1 - t) * -0.4)
        assert_allclose(a[k] * 0.7 + b[k] * (0.7 + 0.4) / t, mean, atol=1e-6)
    assert_allclose((a[-1], b[-1], std[-1]), (1.0, -times[-2], 1e-3), rtol=1e-5)  # the last step: x_0 hat


def test_ddim_keeps_the_marginals_as_its_steps_shrink():
    errors = []
    for num_steps in (200, 400, 800):
        times = grid(num_steps)
        found = variances(ddim(times, eta=1.0, floor=1e-4), times)
        errors.append(abs(found[-1] / TARGET**2 - 1))
    assert errors[2] < 0.02
    assert_allclose(errors[0] / errors[2], 4.0, rtol=0.2)


def test_one_step_cannot_keep_the_marginals():
    with pytest.raises(ValueError, match="at least 2"):
        marginal_preserving(grid(1), level=0.7)
