"""The exact log-likelihood of the sampler and its gradients, against closed forms and brute force."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import (
    integrate,
    invert,
    log_prob_of_action,
    log_prob_of_noise,
    ode_log_prob_of_action,
    standard_normal_log_prob,
    tanh_log_prob,
    time_grid,
)

HIDDEN = 16
# Compiled once for every test that asks for the same field and shapes.
of_noise = jax.jit(log_prob_of_noise, static_argnums=0, static_argnames="method")
of_action = jax.jit(
    log_prob_of_action, static_argnums=0, static_argnames=("method", "solver", "max_iterations", "tolerance")
)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mlp_params(key, obs_size, action_size, scale=1.0):
    sizes = [(obs_size + action_size + 2, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, action_size)]
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": scale * jax.random.normal(k, size) / math.sqrt(size[0]), "b": 0.1 * jax.random.normal(k, size[1:])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def mlp(params, obs, x, t):
    time = jnp.broadcast_to(jnp.stack([jnp.cos(3.0 * t), jnp.sin(3.0 * t)]), (*x.shape[:-1], 2))
    h = jnp.concatenate([obs, x, time.astype(x.dtype)], axis=-1)
    for i, layer in enumerate(params):
        h = h @ layer["w"] + layer["b"]
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


def linear(alpha, obs, x, t):
    del obs, t
    return alpha * x


def gaussian_field(s, obs, x, t):
    """The optimal velocity for actions ~ N(0, s^2): docs/bounds.md."""
    del obs
    return x * (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2)


def normal_log_prob(x, std):
    return np.sum(-0.5 * (x / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi), axis=-1)


def mlp_problem(seed=0, batch=5, obs_size=3, action_size=2, dtype=jnp.float64, scale=1.0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = mlp_params(keys[0], obs_size, action_size, scale)
    obs = jax.random.normal(keys[1], (batch, obs_size))
    noise = jax.random.normal(keys[2], (batch, action_size))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (params, obs, noise))


@pytest.mark.parametrize(
    ("method", "action_size"), [("euler", 1), ("euler", 2), ("euler", 3), ("euler", 5), ("midpoint", 2), ("heun", 2)]
)
def test_a_linear_field_scales_the_base_density_by_its_growth_factor(method, action_size):
    alpha, steps = 0.7, 10
    dt = -1.0 / steps
    growth = {"euler": 1 + dt * alpha}.get(method, 1 + dt * alpha + (dt * alpha) ** 2 / 2) ** steps
    noise = jax.random.normal(jax.random.key(0), (64, action_size))
    got = of_noise(linear, alpha, jnp.zeros((64, 1)), noise, time_grid(steps, kind="uniform"), method=method)
    np.testing.assert_allclose(got.action, growth * noise, rtol=1e-5)
    np.testing.assert_allclose(got.log_prob, normal_log_prob(np.asarray(got.action), growth), atol=2e-5)
    assert bool(jnp.all(got.valid))


@pytest.mark.parametrize(("steps", "error"), [(10, 0.116), (50, 0.020), (1000, 0.001)])
def test_the_gaussian_field_differs_from_the_true_density_by_the_known_discretisation_error(steps, error):
    noise = jnp.asarray([[0.7]])
    got = of_noise(gaussian_field, 0.3, jnp.zeros((1, 1)), noise, time_grid(steps, kind="uniform"))
    assert float(got.log_prob[0] - normal_log_prob(np.asarray(got.action), 0.3)[0]) == pytest.approx(error, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_gradients_at_a_fixed_action_equal_finite_differences_of_a_brute_force_inverse(x64, method):
    params, obs, noise = mlp_problem()
    conditions = (params, obs)
    times = time_grid(10, kind="uniform").astype(jnp.float64)

    def brute_force(conditions, action):
        """Newton on the whole map Phi(x) = a, then log N(x) - log|det dPhi/dx|: another road altogether."""

        def single(params, obs, action, x):
            phi = lambda x: integrate(partial(mlp, params, obs), x, times, method=method)
            newton = lambda _, x: x - jnp.linalg.solve(jax.jacfwd(phi)(x), phi(x) - action)
            x = jax.lax.fori_loop(0, 20, newton, x)
            return standard_normal_log_prob(x) - jnp.linalg.slogdet(jax.jacfwd(phi)(x))[1]

        return jax.vmap(single, in_axes=(None, 0, 0, 0))(*conditions, action, noise)

    brute_force = jax.jit(brute_force)
    weights = jnp.arange(1.0, 6.0) - 2.5  # of both signs, like advantages

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def from_noise(conditions):
        exact = log_prob_of_noise(mlp, *conditions, noise, times, method=method)
        return jnp.sum(weights * exact.log_prob), exact

    @jax.jit
    @jax.grad
    def from_action(conditions, action):
        exact = log_prob_of_action(mlp, *conditions, action, times, method=method, tolerance=1e-13)
        return jnp.sum(weights * exact.log_prob)

    (_, exact), score = from_noise(conditions)
    np.testing.assert_allclose(exact.log_prob, brute_force(conditions, exact.action), atol=1e-12)
    by_inverse = from_action(conditions, exact.action)
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), conditions)
        plus, minus = (jax.tree.map(lambda p, u, s=s: p + s * 1e-5 * u, conditions, direction) for s in (1, -1))
        difference = brute_force(plus, exact.action) - brute_force(minus, exact.action)
        slope = float(jnp.sum(weights * difference) / 2e-5)
        for gradient in (score, by_inverse):
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
            assert sum(float(jnp.vdot(g, u)) for g, u in pairs) == pytest.approx(slope, abs=2e-8 * max(1, abs(slope)))


@pytest.mark.slow
def test_the_score_equals_the_identity_of_methods_reference_6_3b(x64):
    """grad l = grad_theta L(theta, x) - grad_theta [Phi_theta(x) . grad_a l], with whole-chain Jacobians."""
    params, obs, noise = mlp_problem(batch=1)
    times = time_grid(4, kind="refined").astype(jnp.float64)

    def phi(params, x):
        return integrate(partial(mlp, params, obs[0]), x, times, method="euler")

    def along_the_path(params, x):
        return standard_normal_log_prob(x) - jnp.linalg.slogdet(jax.jacfwd(phi, 1)(params, x))[1]

    @jax.jit
    def by_identity(params, x):
        grad_params, grad_x = jax.grad(along_the_path, (0, 1))(params, x)
        grad_a = jnp.linalg.solve(jax.jacfwd(phi, 1)(params, x).T, grad_x)
        moving = jax.grad(lambda p: phi(p, x) @ grad_a)(params)
        return jax.tree.map(jnp.subtract, grad_params, moving), grad_a

    expected = by_identity(params, noise[0])
    score = jax.jit(jax.grad(lambda p: log_prob_of_noise(mlp, p, obs, noise, times).log_prob[0]))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), score, expected[0])
    by_action = jax.jit(jax.grad(lambda a: log_prob_of_action(mlp, params, obs, a, times, tolerance=1e-13).log_prob[0]))
    np.testing.assert_allclose(by_action(phi(params, noise[0])[None])[0], expected[1], atol=1e-10)


@pytest.mark.parametrize(
    ("method", "solver"), [("euler", "newton"), ("heun", "newton"), ("midpoint", "newton"), ("euler", "fixed-point")]
)
def test_inversion_finds_the_base_noise_of_an_action(method, solver):
    params, obs, noise = mlp_problem(batch=64, dtype=jnp.float32)
    times = time_grid(10, kind="uniform")
    path = integrate(partial(mlp, params, obs), noise, times, method=method, return_path=True)
    solve = jax.jit(partial(invert, mlp, method=method, solver=solver, tolerance=3e-6))
    found = solve(params, obs, path[-1], times)
    assert bool(jnp.all(found.converged)) and float(found.residual.max()) <= 3e-6
    np.testing.assert_allclose(found.path, path, atol=1e-4)


def test_a_warm_start_needs_fewer_iterations_than_a_cold_one():
    params, obs, noise = mlp_problem(batch=64, dtype=jnp.float32, scale=2.0)
    times = time_grid(10, kind="uniform")
    path = integrate(partial(mlp, params, obs), noise, times, method="euler", return_path=True)
    moved = jax.tree.map(lambda leaf: 1.001 * leaf, params)
    solve = jax.jit(lambda params, guess: invert(mlp, params, obs, path[-1], times, guess_path=guess))
    cold, warm, exact = solve(moved, None), solve(moved, path), solve(params, path)
    np.testing.assert_allclose(cold.path, warm.path, atol=1e-3)  # 1e-5 a step, grown along the path
    assert int(exact.iterations) == 0
    assert int(warm.iterations) <= 10 < int(cold.iterations)


@pytest.mark.slow
def test_the_ratio_is_one_at_the_acting_parameters_and_moves_with_the_score():
    params, obs, noise = mlp_problem(batch=64, dtype=jnp.float32)
    times = time_grid(10, kind="uniform")
    old = of_noise(mlp, params, obs, noise, times)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def mean_log_ratio(params):
        new = log_prob_of_action(mlp, params, obs, old.action, times, guess_path=old.path)
        return jnp.mean(new.log_prob - old.log_prob), new.log_prob - old.log_prob

    (_, log_ratio), gradient = mean_log_ratio(params)
    np.testing.assert_allclose(log_ratio, 0.0, atol=1e-5)
    square = sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda p, g: p + 1e-2 * g / math.sqrt(square), params, gradient)
    assert float(mean_log_ratio(moved)[0][0]) == pytest.approx(1e-2 * math.sqrt(square), rel=0.05)


def test_the_score_of_a_linear_field_is_that_of_a_gaussian_of_its_growth_factor():
    """For a linear field the score at a fixed action is known: d log sigma (z^2 - 1), of mean 0 over z ~ N(0, 1)."""
    noise = jax.random.normal(jax.random.key(0), (4096, 1))
    growth_of = lambda alpha: (1.0 - 0.1 * alpha) ** 10  # std of the action
    times, obs = time_grid(10, kind="uniform"), jnp.zeros((4096, 1))
    alpha = 0.7

    @jax.jit
    @jax.vmap
    def score(noise, obs):
        one = lambda a: log_prob_of_noise(linear, a, obs[None], noise[None], times).log_prob[0]
        return jax.grad(one)(alpha)

    scores = score(noise, obs)
    rate = jax.grad(lambda a: jnp.log(growth_of(a)))(alpha)
    np.testing.assert_allclose(scores, rate * (noise[:, 0] ** 2 - 1.0), rtol=1e-3, atol=1e-5)


def folding_field(strength, obs, x, t):
    """One Euler step of -1 maps x to x - strength sin(x): folds where strength cos(x) > 1."""
    del obs, t
    return strength * jnp.sin(x)


def test_folded_points_are_counted_and_left_out_of_value_and_gradient():
    noise = jnp.linspace(-3.0, 3.0, 61)[:, None]
    times, obs = time_grid(1, kind="uniform"), jnp.zeros((61, 1))
    exact = of_noise(folding_field, 2.0, obs, noise, times)
    folded = 1.0 - 2.0 * np.cos(np.asarray(noise[:, 0])) <= 0.0
    assert 0 < folded.sum() < 61
    np.testing.assert_array_equal(exact.folded_steps, folded.astype(int))
    np.testing.assert_array_equal(exact.valid, ~folded)
    np.testing.assert_array_equal(np.isnan(exact.log_prob), folded)
    np.testing.assert_allclose(exact.min_det, 1.0 - 2.0 * np.cos(noise[:, 0]), atol=1e-6)

    @jax.jit
    @jax.grad
    def gradient(strength, noise, weight):
        got = log_prob_of_noise(folding_field, strength, obs, noise, times)
        return jnp.sum(jnp.where(got.valid, weight * jnp.exp(0.1 * got.log_prob), 0.0))

    everything = gradient(2.0, noise, jnp.ones(61))
    only_valid = gradient(2.0, jnp.where(folded[:, None], 3.0, noise), jnp.where(folded, 0.0, 1.0))
    assert np.isfinite(everything) and float(everything) == pytest.approx(float(only_valid), rel=1e-6)


@pytest.mark.parametrize("solver", ["newton", "fixed-point"])
def test_an_action_that_no_noise_reaches_is_reported_as_unconverged(solver):
    bounded = lambda params, obs, x, t: x - jnp.tanh(x)  # one step of -1 gives tanh(x): nothing beyond 1
    times, obs = time_grid(1, kind="uniform"), jnp.zeros((3, 1))
    action = jnp.asarray([[0.5], [1.5], [-3.0]])
    got = of_action(bounded, None, obs, action, times, solver=solver, max_iterations=60, tolerance=1e-4)
    np.testing.assert_array_equal(got.converged, [True, False, False])
    np.testing.assert_array_equal(got.valid, [True, False, False])
    np.testing.assert_array_equal(np.isnan(got.log_prob), [False, True, True])
    expected = normal_log_prob(np.arctanh([[0.5]]), 1.0)[0] - math.log(1 - 0.5**2)
    assert float(got.log_prob[0]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_lost_row_changes_nothing_in_its_neighbours():
    params, obs, noise = mlp_problem(batch=64, dtype=jnp.float32)
    times = time_grid(10, kind="uniform")
    action = of_noise(mlp, params, obs, noise, times).action

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def of_the_others(params, action):
        got = log_prob_of_action(mlp, params, obs, action, times)
        return jnp.sum(jnp.where(got.valid, got.log_prob, 0.0).at[3].set(0.0)), got

    gradient, plain = of_the_others(params, action)
    lost_gradient, lost = of_the_others(params, action.at[3].set(jnp.nan))
    np.testing.assert_array_equal(lost.valid, np.arange(64) != 3)
    np.testing.assert_allclose(plain.log_prob[lost.valid], lost.log_prob[lost.valid], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, lost_gradient)


@pytest.mark.slow
def test_an_infinite_path_is_counted_and_has_no_gradient():
    explosive = lambda alpha, obs, x, t: -alpha * x * jnp.exp(jnp.abs(x) * 10.0)
    noise = jnp.asarray([[0.1], [5.0]])
    times, obs = time_grid(10, kind="uniform"), jnp.zeros((2, 1))
    got = of_noise(explosive, 0.1, obs, noise, times)
    assert bool(got.valid[0]) and not bool(got.valid[1])
    log_prob = lambda alpha: log_prob_of_noise(explosive, alpha, obs, noise, times).log_prob
    gradient = jax.jit(jax.grad(lambda alpha: jnp.sum(jnp.where(got.valid, log_prob(alpha), 0.0))))(0.1)
    assert bool(jnp.isfinite(gradient)) and float(gradient) != 0.0


@pytest.mark.slow
def test_the_likelihood_of_one_dimension_integrates_to_one_over_actions():
    params, obs, _ = mlp_problem(batch=1, action_size=1, dtype=jnp.float32)
    action = jnp.linspace(-8.0, 8.0, 2001)[:, None]
    rows = jnp.broadcast_to(obs, (2001, 3))
    got = of_action(mlp, params, rows, action, time_grid(10, kind="uniform"))
    assert bool(jnp.all(got.valid))
    assert float(jnp.trapezoid(jnp.exp(got.log_prob), action[:, 0])) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_the_tanh_density_integrates_to_one_and_stays_finite_in_saturation():
    squashed = jnp.linspace(-1.0 + 1e-6, 1.0 - 1e-6, 200001)
    action = jnp.arctanh(squashed)[:, None]
    density = jnp.exp(tanh_log_prob(standard_normal_log_prob(action), action))
    assert float(jnp.trapezoid(density, squashed)) == pytest.approx(1.0, abs=1e-3)
    far = jnp.asarray([[40.0], [-40.0]])
    # log(1 - tanh(a)^2) -> 2 log 2 - 2 |a|
    np.testing.assert_allclose(tanh_log_prob(jnp.zeros(2), far), 80.0 - 2 * math.log(2), rtol=1e-6)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda a: tanh_log_prob(jnp.zeros(2), a).sum())(far))))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_sampler_likelihood_tends_to_that_of_the_ode_at_the_rate_of_the_method(x64, method, order):
    params, obs, noise = mlp_problem(seed=3, batch=8)

    @jax.jit
    def error(times):
        exact = log_prob_of_noise(mlp, params, obs, noise, times, method=method)
        fine = jnp.linspace(1.0, 0.0, 1025)
        return jnp.abs(exact.log_prob - ode_log_prob_of_action(mlp, params, obs, exact.action, fine)).mean()

    coarse, fine = (float(error(jnp.linspace(1.0, 0.0, num_steps + 1))) for num_steps in (32, 64))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.slow
def test_vmap_over_seeds_gives_what_each_seed_gives_alone():
    params, obs, noise = mlp_problem(batch=4, dtype=jnp.float32)
    times = time_grid(5, kind="uniform")
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), params)
    action = of_noise(mlp, params, obs, noise, times).action
    value_and_grad = jax.value_and_grad(lambda p: log_prob_of_action(mlp, p, obs, action, times).log_prob.sum())
    values, gradients = jax.jit(jax.vmap(value_and_grad))(stacked)
    value_and_grad = jax.jit(value_and_grad)
    for i in range(2):
        value, gradient = value_and_grad(jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        assert float(values[i]) == pytest.approx(float(value), rel=1e-5)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4), gradients, gradient)


@pytest.mark.parametrize("call", [{"solver": "secant"}, {"max_iterations": 0}, {"tolerance": 0.0}, {"method": "rk4"}])
def test_an_illegal_solver_setting_is_refused_with_its_value(call):
    with pytest.raises(ValueError, match=r"'secant'|max_iterations 0|tolerance 0.0|'rk4'"):
        log_prob_of_action(linear, 0.5, jnp.zeros((2, 1)), jnp.zeros((2, 2)), time_grid(2, kind="uniform"), **call)
