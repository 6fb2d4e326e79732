"""PPO's clip by hand, and PPO as the case of one draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import numpy_clip
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import assert_clipped_and_not, assert_value_and_gradient, gradient_of, loss_of, random_batch

from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.ppo import ExactPpo, Ppo, ppo_clip

EPS = 0.05


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 2.0, -2.4),  # min(1.5 * 2, 1.2 * 2)
        (0.5, 2.0, -1.0),  # min(.5 * 2, .8 * 2)
        (1.5, -2.0, 3.0),  # min(1.5 * -2, 1.2 * -2)
        (0.5, -2.0, 1.6),  # min(.5 * -2, .8 * -2)
    ],
)
def test_ppo_clip_by_hand(ratio, advantage, expected):
    assert_allclose(ppo_clip(jnp.float32(ratio), jnp.float32(advantage), 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.5, 2.0, 0.0), (0.5, 2.0, -2.0), (1.5, -2.0, 2.0), (0.5, -2.0, 0.0), (1.0, 2.0, -2.0)],
)
def test_ppo_clip_lets_go_only_past_the_clip_that_the_advantage_favours(ratio, advantage, gradient):
    assert_allclose(jax.grad(ppo_clip)(jnp.float32(ratio), jnp.float32(advantage), 0.2), gradient, rtol=1e-6)


@pytest.mark.parametrize("objective", [Ppo(EPS), ExactPpo(EPS)])
def test_its_gradient_is_that_of_the_formula_where_ratios_are_clipped_and_where_not(objective):
    new, old, advantage = random_batch(num_draws=1)
    assert_clipped_and_not((old - new)[:, 0], advantage, EPS)
    formula = lambda loss: np.vectorize(numpy_clip)((old - loss)[:, 0], advantage, EPS).mean()
    assert_value_and_gradient(objective, formula, {"loss": new}, {"loss": old}, advantage)


@pytest.mark.parametrize("objective", [Ppo(EPS), ExactPpo(EPS)])
def test_ppo_equals_fpo_of_one_draw(objective):
    new, old, advantage = random_batch(num_draws=1)
    assert_array_equal(loss_of(objective, new, old, advantage), loss_of(Fpo(EPS), new, old, advantage))


@pytest.mark.parametrize("objective", [Ppo(EPS), ExactPpo(EPS)])
def test_at_the_acting_parameters_the_gradient_is_that_of_the_advantage_weighted_log_likelihood(objective):
    _, old, advantage = random_batch(num_draws=1)
    assert_allclose(loss_of(objective, old, old, advantage), -advantage.mean(), rtol=1e-5)
    assert_allclose(gradient_of(objective, old, old, advantage)[:, 0], advantage / 64, rtol=1e-5)
    assert_array_equal(gradient_of(objective, old, old, np.zeros(64)), 0.0)
