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


OBS, ACTION = jnp.ones((256, 3)), jnp.linspace(-1.0, 1.0, 512).reshape(256, 2)


def scored(num_draws, at_once):
    """Compiled: scores of 256 actions, and the gradient of their mean bound."""
    policy = FlowOptions((64, 64), num_draws=num_draws, draws_at_once=at_once, draws="monte-carlo").build(3, 2)

    def run(key):
        params = policy.init(key)
        draws = policy.prepare(params, key, OBS, ())
        score = lambda p: policy.score(p, OBS, ACTION, draws)
        return jax.grad(lambda p: score(p).bound.mean())(params), score(params)

    return jax.jit(run).lower(jax.random.key(0)).compile()


def test_draws_in_groups_give_the_same_scores_and_the_same_gradient_in_memory_that_does_not_grow_with_them():
    few, many, many_at_once = scored(8, 2), scored(64, 2), scored(64, None)
    found, expected = (program(jax.random.key(0)) for program in (many, many_at_once))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    memory = lambda program: program.memory_analysis().temp_size_in_bytes
    activations = 256 * 64 * 4 * 56  # of 56 more draws in one layer
    # times, noise, losses and velocities of the draws themselves are a few floats where a layer has 64
    assert memory(many) - memory(few) < 0.5 * activations
    assert memory(many_at_once) - memory(many) > 2.0 * activations


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
