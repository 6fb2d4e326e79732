"""Training over V^L: against the two-token toy, a gradient by finite differences, and what each algorithm promises."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dipod_jax.toys import bounds, distillation, training
from dipod_jax.toys.models import ConditionalTable
from dipod_jax.toys.options import METHODS, PAPER_METHODS, training_bytes
from dipod_jax.toys.space import make_space
from dipod_jax.toys.two_tokens import train as train_two_tokens


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def settings(length=2, vocab=2, **changes):
    fields = {"steps": 60, "record_every": 20} | changes
    return training.Settings(ConditionalTable(length, vocab), length, vocab, **fields)


REWARD = np.random.default_rng(3).uniform(0.7, 1.0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("eubo", ["spg", "renyi"])
def test_two_binary_tokens_are_the_two_token_toy(eubo):
    """Half the step on a pair of logits is a whole step on their difference."""
    ours = training.train(
        settings(steps=300, record_every=300, learning_rate=0.25, eubo=eubo),
        training.make_runs(METHODS, 0.2, [0.8, 1.0, 0.7, 1.0], 0),
    )
    toy = train_two_tokens(METHODS, [0.0], steps=300, learning_rate=0.5, eubo=eubo)
    for name in ("mean_gap", "max_gap", "expected_reward", "gradient_cosine"):
        np.testing.assert_allclose(getattr(ours, name)[:, -1], getattr(toy, name)[:, 0, -1], atol=1e-12)


@pytest.mark.slow
def test_one_update_moves_the_expected_reward_by_the_gradient_squared():
    """J(theta + eta g) - J(theta) = eta |g|^2 + O(eta^2) for the exact policy gradient, g by finite differences."""
    space, model, step = make_space(3, 2), ConditionalTable(3, 2), 1e-5
    reward = np.random.default_rng(0).uniform(size=8)

    @jax.jit
    @jax.vmap
    def expected_reward(logits):
        return jnp.exp(bounds.all_bounds(jax.nn.log_softmax(logits), space, "spg", 1.5).log_prob) @ reward

    shifts = np.eye(27 * 3 * 2).reshape(-1, 27, 3, 2) * step  # around all logits 0, the start
    gradient = np.asarray(expected_reward(shifts) - expected_reward(-shifts)) / (2 * step)
    curves = training.train(
        training.Settings(model, 3, 2, steps=1, record_every=1, learning_rate=1e-6),
        training.make_runs(["policy-gradient"], 0.0, reward, 0),
    )
    gained = float(np.diff(curves.expected_reward[0])[0])
    assert gained / 1e-6 == pytest.approx(gradient @ gradient, rel=1e-4)


@pytest.mark.slow
def test_algorithm_1_that_never_comes_to_distil_is_algorithm_2_without_regulariser():
    """The start is tight, so distillation has converged at once; n updates then outlast the run."""
    program = settings(3, steps=40, learning_rate=1.0)
    free = training.train(program, training.make_runs(["fpo"], 0.0, REWARD, 0))
    interleaved = distillation.train_interleaved(program, training.make_runs(["fpo"], 0.0, REWARD, 0, 10**6))
    np.testing.assert_allclose(interleaved.mean_gap, free.mean_gap, atol=1e-14)
    assert np.all(interleaved.distilling == 0)


@pytest.mark.slow
def test_algorithm_1_keeps_the_gap_below_what_its_tolerance_and_n_allow():
    program = settings(3, steps=1500, record_every=1, learning_rate=1.0, tolerance=1e-3)
    runs = training.make_runs(["fpo", "fpo"], 0.0, REWARD, 0, np.array([1, 10**6]))
    curves = distillation.train_interleaved(program, runs)
    # E_ref[log pi_ref - ELBO] < 1e-3 before each single update; the update itself may add a little.
    assert np.max(curves.mean_gap[0]) < 2e-3 < np.max(curves.mean_gap[1])
    assert 0.1 < np.mean(curves.distilling[0]) < 1.0
    assert np.all(np.diff(curves.expected_reward[0]) > -1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["elbo", "monotone"])
def test_self_distillation_tightens_both_bounds_and_keeps_the_policy(rule):
    program = settings(3, steps=1000, record_every=500, learning_rate=1.0, eubo="renyi", eubo_order=2.0)
    reward = np.random.default_rng(1).uniform(0.7, 1.0, 8)
    curves = distillation.drift_and_distil(program, training.make_runs(["fpo"], 0.0, reward, 0), 3000, rule)
    loss, upper, kl = curves.loss[0], curves.eubo_excess[0], curves.kl[0]
    assert loss[0] > 0.01 and loss[-1] < 0.05 * loss[0]
    assert kl[0] == pytest.approx(0.0, abs=1e-14) and kl[-1] <= loss[-1] + 1e-12
    assert abs(curves.expected_reward[0, -1] - curves.expected_reward[0, 0]) < 5e-3
    assert np.all(np.diff(loss) < 1e-9)
    if rule == "monotone":
        assert np.max(np.diff(upper)) < 1e-5


def test_the_projection_takes_out_exactly_what_rises_and_nothing_else():
    rise = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([2.0])}
    up = {"a": jnp.array([3.0, 5.0]), "b": jnp.array([1.0])}  # inner product 5, of which 5 = |rise|^2: share 1
    kept = training.without_rise(up, rise)
    np.testing.assert_allclose(kept["a"], [2.0, 5.0])
    np.testing.assert_allclose(kept["b"], [-1.0])
    down = jax.tree.map(jnp.negative, up)
    jax.tree.map(np.testing.assert_array_equal, training.without_rise(down, rise), down)


@pytest.mark.slow
def test_the_monotone_constraint_keeps_the_upper_gap_from_rising():
    runs = training.make_runs(["fpo"], 0.0, REWARD, 0)
    program = settings(3, steps=600, record_every=20, learning_rate=0.5, eubo="renyi", eubo_order=2.0)
    free, held = (training.train(replace(program, monotone=m), runs).upper_gap[0] for m in (False, True))
    assert np.max(free) > 0.01
    assert np.max(held) < 0.1 * np.max(free)


def test_the_constraint_holds_the_upper_gap_of_the_policy_as_it_moves_from_a_loose_start_too():
    free = settings(2, eubo="renyi", eubo_order=2.0)
    held = replace(free, monotone=True)
    run = jax.tree.map(lambda x: x[0], training.make_runs(["fpo"], 0.0, REWARD[:4], 0))

    def upper_gap(params):
        found = training.exact_bounds_fn(free)(params)
        return found.prob @ found.upper_gap

    @jax.jit
    def rises(key):
        start = jax.tree.map(lambda x: jax.random.normal(key, x.shape), training.init_params(free, run))
        slope, key = jax.grad(upper_gap)(start), training.draw_key(run)
        return [optax.tree.vdot(training._direction(program, run, start, key), slope) for program in (free, held)]

    found = np.array([rises(jax.random.key(seed)) for seed in range(12)])
    assert (found[:, 0] > 1e-4).sum() >= 3 and found[:, 1].max() < 1e-12


def test_unknown_names_are_refused_by_name():
    with pytest.raises(ValueError, match="'ppo' is unknown"):
        training.make_runs(["ppo"], 0.0, REWARD, 0)
    with pytest.raises(ValueError, match="'up' is unknown"):
        distillation.drift_and_distil(settings(), training.make_runs(["fpo"], 0.0, REWARD[:4], 0), 1, "up")


def test_the_memory_estimate_grows_with_every_factor_and_is_near_the_size_of_the_arrays():
    assert training_bytes(6, 4, 1) < 2**28 < training_bytes(9, 4, 1)
    assert training_bytes(4, 2, 10) > 9 * training_bytes(4, 2, 1)


@pytest.mark.slow
def test_all_paper_methods_share_one_program():
    curves = training.train(settings(3, steps=40), training.make_runs(PAPER_METHODS, 0.2, REWARD, 0))
    assert curves.mean_gap.shape == (len(PAPER_METHODS), 3)
    assert np.all(curves.mean_gap[:, 0] == pytest.approx(0.0, abs=1e-14))
