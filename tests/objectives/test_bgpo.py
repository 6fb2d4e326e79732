"""BGPO: a lower bound, linear in the draws, whose memory does not grow with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.bgpo import Bgpo
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.presets import make_config


def formula(new, old, advantage, stop=None):
    """-mean of (1 + d) A for A >= 0 and e^d A for A < 0 (eqs. 7-19), in float64."""
    d, a = old - new, advantage[:, None]
    rising = d if stop is None else np.minimum(d, np.log(1 + stop))
    falling = d if stop is None else np.maximum(d, np.log(1 - stop))
    return -np.where(a >= 0, (1 + rising) * a, np.exp(falling) * a).mean()


@pytest.mark.parametrize("stop", [None, 0.1])
def test_value_and_gradient_equal_a_float64_formula(stop):
    new, old, advantage = random_batch()
    assert_allclose(loss_of(Bgpo(stop), new, old, advantage), formula(new, old, advantage, stop), rtol=1e-5)
    expected = numerical_gradient(lambda n: formula(n, old, advantage, stop), new)
    assert_allclose(gradient_of(Bgpo(stop), new, old, advantage), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("stop", [None, 0.1])
def test_it_is_never_above_the_surrogate_that_it_bounds(stop):
    new, old, advantage = random_batch(scale=1.5)
    objective = Bgpo(stop)
    for n, o, a in zip(new, old, advantage, strict=True):
        bound = -loss_of(objective, n[None], o[None], a[None])
        assert bound <= np.exp((o - n).mean()) * a + 1e-5


def test_the_loss_of_many_draws_is_the_mean_of_the_losses_of_each():
    new, old, advantage = random_batch()
    each = [loss_of(Bgpo(0.1), new[:, [n]], old[:, [n]], advantage) for n in range(8)]
    assert_allclose(loss_of(Bgpo(0.1), new, old, advantage), np.mean(each), rtol=1e-5)


def test_the_exponential_of_a_bad_sample_is_bounded_and_keeps_its_gradient():
    gradient = gradient_of(Bgpo(), np.full((1, 2), -1e3), np.zeros((1, 2)), -np.ones(1))
    assert_allclose(gradient, -np.exp(10.0) / 2, rtol=1e-4)  # descent raises its loss
    assert_array_equal(gradient_of(Bgpo(0.1), np.full((1, 2), 1e3), np.zeros((1, 2)), -np.ones(1)), 0.0)


BATCH = 256
OBS, ACTION = jnp.ones((BATCH, 3)), jnp.linspace(-1.0, 1.0, 2 * BATCH).reshape(BATCH, 2)


def update_gradient(num_draws, at_once):
    """Compiled: parameters, draws and old losses (B, N) to the objective's loss and gradient."""
    policy = FlowOptions((64, 64), num_draws=num_draws, draws_at_once=at_once, draws="monte-carlo").build(3, 2)
    params = policy.init(jax.random.key(0))
    draws = policy.prepare(params, jax.random.key(1), OBS, ())

    def loss(params, draws, old):
        new = policy.score(params, OBS, ACTION, draws)
        return Bgpo(0.1)(new, new._replace(loss=old), None, ACTION[:, 0])[0]

    arguments = params, draws, jnp.ones((BATCH, num_draws))
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile(), arguments


@pytest.mark.slow
def test_draws_in_groups_of_four_give_the_same_gradient_in_memory_that_is_constant_but_for_the_draws_themselves():
    grouped = {num_draws: update_gradient(num_draws, 4)[0] for num_draws in (8, 32, 128)}
    at_once, arguments = update_gradient(128, None)
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), grouped[128](*arguments), at_once(*arguments)
    )
    memory = {n: program.memory_analysis().temp_size_in_bytes for n, program in grouped.items()}
    draw = 4 * 4 * BATCH  # bytes of a time, a noise of two dimensions and a loss
    assert memory[32] - memory[8] <= 24 * draw and memory[128] - memory[8] <= 120 * draw
    # one layer's activations of a draw are 64 floats
    assert at_once.memory_analysis().temp_size_in_bytes - memory[128] > 120 * 64 * 4 * BATCH


def test_groups_that_do_not_divide_the_draws_are_refused():
    with pytest.raises(ValueError, match=r"--policy.draws-at-once 3 is not allowed: a divisor of policy.num-draws = 8"):
        FlowOptions(num_draws=8, draws_at_once=3).validate()


@pytest.mark.parametrize("stop", [0.0, 1.0])
def test_a_stop_outside_its_range_is_refused(stop):
    with pytest.raises(ValueError, match=r"--objective.stop-epsilon .* is not allowed: more than 0 and less than 1"):
        Bgpo(stop).validate()


def test_its_presets_score_four_draws_at_a_time():
    for preset in ("paper", "cpu", "smoke"):
        assert make_config(preset, "BallInCup", "bgpo", "native")[0].policy.draws_at_once == 4
