"""DPPO against loops over actions and steps in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import SMALL, assert_first_ratio_is_one, make, numpy_clip
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.dppo import Dppo
from dipod_jax.policies.flow_sde import NoisyFlowOptions


def numpy_dppo(new, old, advantage, epsilon, discount):
    num_steps = new.shape[-1]
    terms = [
        numpy_clip(old[b, k] - new[b, k], discount ** (num_steps - 1 - k) * advantage[b], epsilon)
        for b in range(len(new))
        for k in range(num_steps)
    ]
    return np.mean(terms)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_dppo_equals_a_loop_over_steps_and_so_does_its_gradient(discount):
    new, old, advantage = random_batch(num_draws=5, scale=0.3)
    expected = lambda n: numpy_dppo(n, old, advantage, 0.2, discount)
    objective = Dppo(clip_epsilon=0.2, denoising_discount=discount)
    assert_allclose(loss_of(objective, new, old, advantage), expected(new), rtol=1e-5)
    assert_allclose(
        gradient_of(objective, new, old, advantage), numerical_gradient(expected, new), rtol=1e-3, atol=1e-7
    )


def test_a_discount_of_zero_credits_the_last_step_alone():
    new, old, advantage = random_batch(num_draws=5, scale=0.01)
    gradient = gradient_of(Dppo(denoising_discount=0.0), new, old, advantage)
    assert_array_equal(gradient[:, :-1], 0.0)
    assert (jnp.abs(gradient[:, -1]) > 0.0).all()


@pytest.mark.parametrize(
    ("change", "advantage", "moves"),
    [
        (-1e4, -1.0, True),  # far likelier and bad: pulled back
        (-1e4, 1.0, False),  # far likelier and good: nothing more to gain
        (1e4, -1.0, False),  # far less likely and bad: let go
        (-1e4, 0.0, False),
        (1e4, 0.0, False),
    ],
)
def test_no_ratio_overflows(change, advantage, moves):
    """`change` is of -log p."""
    old = np.zeros((1, 2))
    gradient = gradient_of(Dppo(), old + change, old, np.array([advantage]))
    assert jnp.isfinite(loss_of(Dppo(), old + change, old, np.array([advantage])))
    assert jnp.isfinite(gradient).all()
    assert bool((gradient != 0.0).all()) is moves


@pytest.mark.slow
def test_the_first_ratio_is_one_and_good_actions_become_likelier():
    assert_first_ratio_is_one(Dppo(), *make(NoisyFlowOptions(**SMALL)))


def test_the_defaults_are_the_fpo_papers():
    options, objective = NoisyFlowOptions(), Dppo()
    assert (options.num_steps, options.sampler, options.step_noise, objective.clip_epsilon) == (10, "euler", 0.05, 0.2)
    assert jax.tree.leaves(objective) == [0.2, 1.0]
