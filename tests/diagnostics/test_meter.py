"""The drift meter on policies whose answers are known."""

import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import (
    cutoff_floor,
    evaluation_times,
    gaussian_velocity,
    integrate,
    log_prob_of_noise,
    sample_draws,
    time_grid,
)
from dipod_jax.diagnostics import (
    CfmSpec,
    DriftBatch,
    MeterSettings,
    draw_losses,
    drift_metrics,
    elbo_of_actions,
    exact_policy_gradient,
    floor_metrics,
    gap_metrics,
    refit,
    refit_metrics,
)
from dipod_jax.diagnostics import meter as meter_module
from dipod_jax.diagnostics.actions import action_metrics, sample_actions
from dipod_jax.diagnostics.synthetic import fit_velocity, sample_target

STD, STEPS, BATCH = 0.3, 10, 1024
TIMES = time_grid(STEPS, kind="uniform")


def growth(params, obs, x, t):
    """The optimal field of N(0, e^(2 log_std)), scaled by gain: a policy with two parameters."""
    return params["gain"] * gaussian_velocity(jnp.exp(params["log_std"]), obs, x, t)


PARAMS = {"log_std": jnp.log(STD), "gain": jnp.asarray(1.0)}


@partial(jax.jit, static_argnames=("velocity_fn", "batch"))
def make_batch(velocity_fn, params, *, batch=BATCH, obs=None):
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jax.random.normal(keys[0], (batch, 3)) if obs is None else obs
    noise = jax.random.normal(keys[1], (batch, 2))
    action = integrate(lambda x, t: velocity_fn(params, obs, x, t), noise, TIMES, method="euler")
    grid = evaluation_times(TIMES, method="euler")
    draws = sample_draws(keys[3], (batch,), 8, 2, placement="grid", times=grid)
    return DriftBatch(obs, noise, action, jax.random.normal(keys[2], (batch,)), draws)


NO_REFIT = MeterSettings(refit_steps=0)


@partial(jax.jit, static_argnames=("velocity_fn", "settings", "proxy"))
def meter(params, batch, key, *, velocity_fn=growth, settings=NO_REFIT, proxy=None):
    loss_fn = None if proxy is None else partial(proxy, velocity_fn, batch)
    return drift_metrics(velocity_fn, params, batch, key, times=TIMES, loss_fn=loss_fn, settings=settings)


def exact_objective(velocity_fn, batch, params):
    exact = log_prob_of_noise(velocity_fn, params, batch.obs, batch.base_noise, TIMES)
    return -jnp.mean(batch.advantage * exact.log_prob)


def bound_objective(velocity_fn, batch, params):
    losses = draw_losses(velocity_fn, params, batch.obs, batch.action, batch.draws, form="eps", reduction="mean")
    return jnp.mean(batch.advantage[:, None] * losses)


def euler_std(std):
    return float(integrate(lambda x, t: gaussian_velocity(std, x, x, t), jnp.ones((1, 1)), TIMES, method="euler")[0, 0])


@pytest.fixture(scope="module")
def gaussian():
    """The meter on the optimal Gaussian field, the proxy being the exact objective itself."""
    settings = MeterSettings(refit_steps=0, num_elbo_draws=64, num_floor_samples=BATCH, num_states=64, num_actions=256)
    batch = make_batch(growth, PARAMS)
    got = meter(PARAMS, batch, jax.random.key(1), settings=settings, proxy=exact_objective)
    return batch, {name: float(value) for name, value in got.items()}


def test_the_gap_of_a_gaussian_policy_is_the_closed_form(gaussian):
    """E[log N(a; 0, f^2) + NELBO(a)] over a ~ N(0, f^2), f the std that Euler has, for the field of N(0, s^2)."""
    batch, got = gaussian
    f, delta = euler_std(STD), 0.05
    # v_hat - v = (slope (1-t) + 1) a + (slope t - 1) eps, and the integral over t by quadrature.
    u, w = np.polynomial.legendre.leggauss(200)
    log_t, w = 0.5 * (u + 1) * math.log(delta), 0.5 * w
    t = np.exp(log_t)
    slope = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
    squared_error = (slope * (1 - t) + 1) ** 2 * f**2 + (slope * t - 1) ** 2  # E over a and eps, per dimension
    integral = -math.log(delta) * np.sum(w * (1 - t) * squared_error)
    nelbo = 2 * (integral + 0.5 * math.log(2 * math.pi * math.e) + math.log(delta / (1 - delta)))
    expected = nelbo - 2 * 0.5 * math.log(2 * math.pi * math.e * f**2)
    assert got["drift/gap_se"] < 0.05
    assert got["drift/gap"] == pytest.approx(expected, abs=3 * got["drift/gap_se"])
    assert got["drift/log_prob"] == pytest.approx(-math.log(2 * math.pi * math.e * f**2), abs=4 / math.sqrt(BATCH))
    assert got["drift/gap"] == pytest.approx(got["drift/log_prob"] - got["drift/elbo"], abs=1e-4)
    assert batch.action.std() == pytest.approx(f, rel=0.05)


def test_the_floor_is_the_likelihood_that_k_steps_add_to_that_of_the_ode(gaussian):
    _, got = gaussian
    f = euler_std(STD)
    # log N(a; 0, f^2) - log N(a; 0, s^2) over a ~ N(0, f^2): the divergence of the two Gaussians, in two dimensions
    expected = 2 * (math.log(STD / f) + 0.5 * (f / STD) ** 2 - 0.5)
    assert got["drift/floor"] == pytest.approx(expected, abs=4 * got["drift/floor_se"] + 0.01)
    assert got["drift/floor_cutoff"] == pytest.approx(float(cutoff_floor(jnp.full(2, f), delta=0.05)), rel=0.05)


def test_contraction_and_spread_are_those_of_the_euler_map(gaussian):
    _, got = gaussian
    assert got["drift/contraction"] == pytest.approx(0.823, abs=0.01)  # docs/bounds.md, K = 10, s = .3
    assert got["drift/action_std"] == pytest.approx(euler_std(STD), rel=0.02)
    assert got["drift/saturation"] == 0.0 and got["drift/noninvertible"] == 0.0


def test_the_cosine_is_one_when_the_proxy_is_the_exact_objective(gaussian):
    _, got = gaussian
    assert got["drift/gradient_cosine"] == pytest.approx(1.0, abs=1e-4)
    assert got["drift/gradient_norm_proxy"] == pytest.approx(got["drift/gradient_norm_exact"], rel=1e-3)
    assert -1.0 <= got["drift/gradient_cosine_ceiling"] <= 1.0


def test_the_gaps_by_sign_of_the_advantage_average_to_the_gap(gaussian):
    batch, got = gaussian
    positive = float(jnp.mean(batch.advantage >= 0.0))
    mixed = positive * got["drift/gap_positive_advantage"] + (1 - positive) * got["drift/gap_negative_advantage"]
    assert mixed == pytest.approx(got["drift/gap"], abs=1e-4)
    assert got["drift/gap_q05"] < got["drift/gap_q25"] < got["drift/gap_median"] < got["drift/gap_q95"]


def test_the_exact_gradient_of_a_gaussian_policy_is_its_score_and_chunks_do_not_change_it():
    batch = make_batch(growth, PARAMS, batch=256)
    run = jax.jit(partial(exact_policy_gradient, growth, times=TIMES, method="euler"), static_argnames="chunk_size")
    data = batch.obs, batch.base_noise, batch.advantage
    first, second, _ = run(PARAMS, *data, chunk_size=128)
    chunked = run(PARAMS, *data, chunk_size=50)  # 32, the largest divisor of 128 not above it
    euler = lambda log_std: integrate(
        lambda x, t: gaussian_velocity(jnp.exp(log_std), x, x, t), jnp.ones((1, 1)), TIMES, method="euler"
    )
    rate = jax.jit(jax.grad(lambda log_std: jnp.log(euler(log_std)[0, 0])))(PARAMS["log_std"])
    score = np.asarray(rate) * np.sum(np.asarray(batch.base_noise) ** 2 - 1.0, axis=-1)
    for half, rows in ((first, slice(128)), (second, slice(128, 256))):
        expected = -np.mean((np.asarray(batch.advantage) * score)[rows])
        assert float(half["log_std"]) == pytest.approx(float(expected), rel=2e-3)
    for a, b in zip(jax.tree.leaves((first, second)), jax.tree.leaves(chunked[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        chunked[2].path,
        integrate(
            lambda x, t: growth(PARAMS, batch.obs, x, t), batch.base_noise, TIMES, method="euler", return_path=True
        ),
        atol=1e-5,
    )


def test_a_clipped_action_is_measured_unclipped_and_reported():
    batch = make_batch(growth, PARAMS, batch=256)
    clipped = batch._replace(action=jnp.clip(batch.action, -0.3, 0.3))
    plain, got = (meter(PARAMS, b, jax.random.key(0), proxy=bound_objective) for b in (batch, clipped))
    for name in ("drift/gap", "drift/floor", "drift/gradient_cosine_ceiling", "drift/log_prob"):
        assert float(got[name]) == float(plain[name])
    settings = MeterSettings()
    losses = jax.jit(partial(draw_losses, growth, form=settings.form, reduction=settings.reduction))(
        PARAMS, clipped.obs, clipped.action, clipped.draws
    )
    assert float(got["drift/cfm_loss"]) == pytest.approx(float(losses.mean()), rel=1e-4)  # of what training sees
    share = float(jnp.mean(jnp.any(jnp.abs(batch.action) > 0.3 * 1.002, axis=-1)))
    assert float(plain["drift/off_policy"]) == 0.0
    assert float(got["drift/off_policy"]) == pytest.approx(share, abs=0.02)


def test_the_cfm_loss_of_a_quadrature_takes_its_weights():
    batch = make_batch(growth, PARAMS, batch=256)
    draws = sample_draws(jax.random.key(5), (256,), 3, 2, placement="gauss-legendre")
    settings = MeterSettings(refit_steps=0, placement="gauss-legendre")
    found = meter(PARAMS, batch._replace(draws=draws), jax.random.key(0), settings=settings)["drift/cfm_loss"]
    losses = draw_losses(
        growth, PARAMS, batch.obs, batch.action, draws, form=settings.form, reduction=settings.reduction
    )
    mean = float((losses @ jnp.array([5.0, 8.0, 5.0]) / 18).mean())
    assert float(found) == pytest.approx(mean, rel=1e-4) and abs(mean / float(losses.mean()) - 1) > 0.01


def test_parameters_other_than_those_that_acted_are_noticed():
    batch = make_batch(growth, PARAMS, batch=256)
    got = meter({**PARAMS, "gain": jnp.asarray(1.1)}, batch, jax.random.key(0), proxy=bound_objective)
    assert float(got["drift/off_policy"]) > 0.95


def test_folded_samples_are_counted_and_leave_every_average():
    """In one dimension of two, one of the Euler steps maps x to x - 2 sin(x), which folds where cos(x) > 1/2."""

    def folding(params, obs, x, t):
        return params * jnp.where(t[..., None] == 1.0, 20.0, 0.0) * jnp.sin(x) * jnp.asarray([1.0, 0.0])

    batch = make_batch(folding, jnp.asarray(1.0), batch=512)
    run = partial(exact_policy_gradient, folding, times=TIMES, method="euler", chunk_size=256)
    first, second, exact = jax.jit(run)(jnp.asarray(1.0), batch.obs, batch.base_noise, batch.advantage)
    folded = np.cos(np.asarray(batch.base_noise[:, 0])) >= 0.5
    np.testing.assert_array_equal(exact.valid, ~folded)
    # x0 - 2 p sin x0 is the action: at a fixed action and p = 1, x0 moves by 2 sin x0 / (1 - 2 cos x0)
    x = np.asarray(batch.base_noise[:, 0], np.float64)
    move = 2 * np.sin(x) / (1 - 2 * np.cos(x))
    slope = -x * move - (2 * np.sin(x) * move - 2 * np.cos(x)) / (1 - 2 * np.cos(x))
    for half, rows in ((first, slice(256)), (second, slice(256, 512))):
        expected = -np.mean((np.asarray(batch.advantage) * slope)[rows][~folded[rows]])
        assert float(half) == pytest.approx(expected, rel=2e-3)
    measured = partial(floor_metrics, folding, jnp.asarray(1.0), batch.obs, num_samples=512, num_fine_steps=40)
    floor = jax.jit(measured)
    spoilt = exact._replace(log_prob=jnp.where(exact.valid, exact.log_prob, 1e3))
    assert float(floor(spoilt)["drift/floor"]) == float(floor(exact)["drift/floor"])
    bound = jnp.zeros(512)
    got = gap_metrics(exact, bound, batch.advantage)
    assert float(got["drift/noninvertible"]) == pytest.approx(folded.mean(), abs=1e-6)
    assert float(got["drift/noninvertible_steps"]) == pytest.approx(folded.mean() / STEPS, abs=1e-6)
    # x' = x - 2 sin x in the first dimension, nothing in the second
    log_prob = -0.5 * np.sum(np.square(batch.base_noise), -1) - math.log(2 * math.pi)
    log_prob = (log_prob - np.log(np.maximum(1 - 2 * np.cos(batch.base_noise[:, 0]), 1e-9)))[~folded]
    assert float(got["drift/gap"]) == pytest.approx(log_prob.mean(), rel=1e-4)
    assert float(got["drift/gap_median"]) == pytest.approx(np.median(log_prob), rel=1e-4)
    assert float(got["drift/gap_se"]) == pytest.approx(log_prob.std(ddof=1) / math.sqrt(len(log_prob)), rel=1e-3)


@pytest.fixture(scope="module")
def fitted():
    """A small network fitted to a Gaussian, and the same after a kick to its weights."""
    velocity_fn, params = fit_velocity(
        jax.random.key(0),
        lambda key: sample_target(key, 256, target="gaussian", std=0.6),
        batch=256,
        num_steps=1000,
        hidden_sizes=(16, 16),
    )
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    kicked = [leaf + 0.15 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return velocity_fn, params, jax.tree.unflatten(tree, kicked)


@pytest.mark.slow
def test_a_refit_gains_nothing_at_the_optimum_and_much_off_it(fitted):
    velocity_fn, optimum, kicked = fitted
    spec, obs = CfmSpec("velocity", "mean", "monte-carlo", 8), jnp.zeros((256, 1))

    @jax.jit
    def measure(params):
        keys = jax.random.split(jax.random.key(2), 4)
        refitted = refit(
            velocity_fn,
            params,
            obs,
            keys[0],
            action_size=2,
            times=TIMES,
            method="euler",
            spec=spec,
            num_steps=60,
            learning_rate=3e-3,
        )
        exact = log_prob_of_noise(velocity_fn, params, obs, jax.random.normal(keys[1], (256, 2)), TIMES)
        got = refit_metrics(
            velocity_fn, params, refitted, obs, exact.action, keys[2], times=TIMES, method="euler", spec=spec
        )
        bound = elbo_of_actions(velocity_fn, params, obs, exact.action, keys[3], delta=0.05, num_draws=16)
        return got | gap_metrics(exact, bound, jnp.ones(256))

    at_optimum, off = ({name: float(value) for name, value in measure(params).items()} for params in (optimum, kicked))
    assert abs(at_optimum["drift/refit_gain"]) < 0.05 * at_optimum["drift/refit_loss"]
    assert off["drift/refit_gain"] > 6 * off["drift/refit_gain_se"]
    assert off["drift/refit_gain"] > 5 * abs(at_optimum["drift/refit_gain"])
    assert off["drift/gap"] > at_optimum["drift/gap"] + 0.1  # the two measures of looseness agree on which is looser


def two_kinds(params, obs, x, t):
    """The best field of N(0, .3^2) where the observation starts with a positive number, else 1.5 times that of .9."""
    wide = obs[..., :1] < 0.0
    return params * jnp.where(wide, 1.5, 1.0) * gaussian_velocity(jnp.where(wide, 0.9, STD), obs, x, t)


def test_a_rollout_is_shuffled_so_that_slices_and_halves_are_samples_of_all_of_it():
    """Of 1024 samples in order, the first half are tight and good, the second loose and bad."""
    obs = jax.random.normal(jax.random.key(7), (BATCH, 3))
    obs = obs.at[:, 0].set(jnp.where(jnp.arange(BATCH) < BATCH // 2, 1.0, -1.0) * jnp.abs(obs[:, 0]))
    batch = make_batch(two_kinds, jnp.asarray(1.0), obs=obs)
    batch = batch._replace(advantage=jnp.where(obs[:, 0] > 0.0, 1.0, -2.0))
    settings = MeterSettings(refit_steps=0, num_states=128, num_actions=128)
    got = meter(jnp.asarray(1.0), batch, jax.random.key(1), velocity_fn=two_kinds, settings=settings)
    tight, loose = (float(half.std()) for half in np.split(np.asarray(batch.action), 2))
    assert loose > 1.5 * tight
    # of 128 states, a share of .5 +- .044 is of either kind; in order, all would be of the first
    assert float(got["drift/action_std"]) == pytest.approx((tight + loose) / 2, abs=0.15 * (loose - tight))
    # observations, noise, actions and advantages stay together
    assert float(got["drift/off_policy"]) == 0.0
    assert float(got["drift/gap_negative_advantage"]) > float(got["drift/gap_positive_advantage"]) + 0.2


def test_the_meter_reports_every_number_of_the_issue_as_a_finite_scalar(gaussian):
    batch = jax.tree.map(lambda x: x[:128], gaussian[0])
    got = meter(PARAMS, batch, jax.random.key(0), settings=MeterSettings(refit_steps=2), proxy=bound_objective)
    required = (
        "gap gap_se gap_median gap_q05 gap_q95 gap_positive_advantage gap_negative_advantage floor floor_cutoff "
        "correlation gradient_cosine gradient_cosine_ceiling refit_gain action_std saturation contraction "
        "noninvertible_steps cfm_loss"
    )
    assert {f"drift/{name}" for name in required.split()} <= set(got)
    assert all(value.shape == () and bool(jnp.isfinite(value)) for value in got.values())


def test_the_gap_above_the_floor_is_the_gap_less_both_parts_of_the_floor(gaussian):
    gap, floor, cutoff = (gaussian[1][f"drift/{name}"] for name in ("gap", "floor", "floor_cutoff"))
    assert abs(floor) > 1e-3 and abs(cutoff) > 1e-3
    assert gaussian[1]["drift/gap_above_floor"] == pytest.approx(gap - floor - cutoff, abs=1e-5)


def test_a_refit_is_of_one_half_of_the_states_and_judged_on_the_other(monkeypatch):
    seen = {}
    monkeypatch.setattr(meter_module, "refit", lambda v, params, obs, *_, **__: seen.update(fit=obs) or params)
    monkeypatch.setattr(
        meter_module, "refit_metrics", lambda v, p, r, obs, action, *_, **__: seen.update(judged=obs, at=action) or {}
    )
    obs, action = jnp.arange(16.0).reshape(8, 2), jnp.arange(8.0)[:, None]
    meter_module._refit_metrics(growth, PARAMS, obs, action, jax.random.key(0), TIMES, MeterSettings())
    np.testing.assert_array_equal(seen["fit"], obs[:4])
    np.testing.assert_array_equal(seen["judged"], obs[4:])
    np.testing.assert_array_equal(seen["at"], action[4:])


def test_a_refit_weighs_its_draws_by_the_quadrature(monkeypatch):
    """Gauss-Legendre's three weights are 5, 8, 5 over 18: the middle draw wins, which of equal weights it would not."""
    slope = jnp.array([-1.0, 1.5, -1.0])
    monkeypatch.setattr(
        sys.modules[refit.__module__], "draw_losses", lambda v, candidate, *_, **__: candidate["gain"] * slope[None]
    )
    spec = CfmSpec("velocity", "mean", "gauss-legendre", 3)
    options = dict(action_size=2, times=TIMES, method="euler", spec=spec, num_steps=1, learning_rate=1e-3)
    after = refit(growth, PARAMS, jnp.zeros((4, 3)), jax.random.key(0), **options)
    assert float(PARAMS["gain"] - after["gain"]) == pytest.approx(1e-3, rel=1e-3)


def test_contraction_is_a_geometric_mean_over_states():
    obs, key = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), jax.random.key(0)
    got = jax.jit(
        lambda: action_metrics(
            two_kinds,
            jnp.asarray(1.0),
            obs,
            key,
            action_size=2,
            times=TIMES,
            method="euler",
            num_actions=64,
            num_fine_steps=40,
            delta=0.05,
        )
    )()
    noise = jax.random.normal(key, (64, 2, 2))
    sampled = jax.jit(partial(sample_actions, two_kinds), static_argnames="method")
    std = [
        np.std(sampled(jnp.asarray(1.0), obs, noise, times, method=method), axis=0, ddof=1)
        for times, method in ((TIMES, "euler"), (time_grid(40, kind="uniform"), "heun"))
    ]
    assert std[1].max() > 2 * std[1].min()
    assert float(got["drift/contraction"]) == pytest.approx(np.exp(np.log(std[0] / std[1]).mean()), rel=1e-4)
    assert abs(std[0].mean() / std[1].mean() - got["drift/contraction"]) > 3e-3


def test_the_rate_of_a_refit_falls_linearly_to_nothing():
    """Adam moves one parameter by its rate a step: of two steps by one and a half of the first's."""
    start = {"log_std": jnp.log(STD), "gain": jnp.asarray(3.0)}  # far off: the gradient keeps its sign and size
    spec = CfmSpec("velocity", "mean", "stratified", 8)
    options = dict(action_size=2, times=TIMES, method="euler", spec=spec, num_steps=2, learning_rate=1e-3)
    run = jax.jit(lambda key: refit(growth, start, jnp.zeros((1024, 3)), key, **options))
    assert float(start["gain"] - run(jax.random.key(0))["gain"]) == pytest.approx(1.5e-3, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "rk4"}, "method 'rk4'"),
        ({"form": "score"}, "form 'score'"),
        ({"delta": 1.0}, "delta 1.0"),
        ({"num_actions": 1}, "num_actions 1"),
        ({"refit_learning_rate": math.nan}, "refit_learning_rate nan"),
        ({"refit_steps": -1}, "refit_steps -1"),
    ],
)
def test_illegal_settings_are_refused_with_their_value(change, message):
    with pytest.raises(ValueError, match=message):
        MeterSettings(**change)


def test_an_odd_batch_is_refused():
    batch = make_batch(growth, PARAMS, batch=256)
    with pytest.raises(ValueError, match="batch of 129 must be even"):
        meter(PARAMS, jax.tree.map(lambda x: x[:129], batch), jax.random.key(0))
