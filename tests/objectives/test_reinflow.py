"""ReinFlow's objective by hand, and that its noise learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import SMALL, acted, assert_first_ratio_is_one, make, moved, numpy_clip
from numpy.testing import assert_allclose
from score_batches import assert_clipped_and_not, assert_on_all_sides, assert_value_and_gradient, random_batch, scores

from dipod_jax.objectives.reinflow import ReinFlow
from dipod_jax.policies.learned_noise import LearnedNoiseOptions
from dipod_jax.types import Steps


@pytest.mark.slow
def test_the_loss_is_one_clipped_ratio_a_path_less_the_entropy_of_the_noise():
    policy, params = make(LearnedNoiseOptions(**SMALL))
    obs, action, _, evidence = acted(policy, params)
    old, new = (policy.score(moved(params, s), obs, action, evidence) for s in (1.0, 1.05))
    advantage = np.random.default_rng(0).standard_normal(7)
    log_ratio = np.clip(np.float64(old.loss), -1, 1)[:, 0] - np.clip(np.float64(new.loss), -1, 1)[:, 0]
    expected = np.mean([numpy_clip(r, a, 0.01) for r, a in zip(log_ratio, advantage, strict=True)])
    expected -= 0.03 * np.mean(0.5 * np.log(2 * np.pi * np.e * np.float64(new.steps.std) ** 2))
    assert_allclose(ReinFlow()(new, old, None, jnp.float32(advantage))[0], expected, rtol=1e-4)


def test_its_gradient_is_that_of_the_formula_where_ratios_and_log_probs_are_clipped_and_where_not():
    loss, old, advantage = random_batch(num_draws=1, size=32)
    loss, old = loss - 1.1, old - 1.1  # log-probs of both signs
    log_ratio = lambda l: (np.clip(old, -0.6, 0.6) - np.clip(l, -0.6, 0.6))[:, 0]
    for log_prob in (loss, old):
        assert_on_all_sides(log_prob, -0.6, 0.6)
    assert_clipped_and_not(log_ratio(loss), advantage, 0.05)

    def formula(loss, std):
        surrogate = np.vectorize(numpy_clip)(log_ratio(loss), advantage, 0.05)
        return surrogate.mean() - 0.2 * np.mean(0.5 * np.log(2 * np.pi * np.e * std**2))

    new = {"loss": loss, "std": np.random.default_rng(1).uniform(0.1, 0.3, (32, 4, 3))}
    objective = ReinFlow(clip_epsilon=0.05, log_prob_clip=0.6, entropy_weight=0.2)
    assert_value_and_gradient(objective, formula, new, {"loss": old}, advantage, move=np.zeros((32, 4, 3)))


def test_a_path_beyond_the_bound_on_log_probs_has_no_gradient():
    steps = Steps(jnp.zeros((3, 4, 2)), jnp.ones((3, 4, 2)))
    old = scores(np.array([[0.5], [1.2], [-1.2]]), steps=steps)
    loss = lambda l: ReinFlow(entropy_weight=0.0)(old._replace(loss=l), old, None, jnp.ones(3))[0]
    assert_allclose(jax.grad(loss)(old.loss)[:, 0], [1 / 3, 0.0, 0.0], rtol=1e-6)


@pytest.mark.slow
def test_the_first_ratio_is_one_and_good_actions_become_likelier():
    assert_first_ratio_is_one(ReinFlow(entropy_weight=0.0), *make(LearnedNoiseOptions(**SMALL)))


@pytest.mark.slow
def test_the_noise_learns_to_be_as_wide_as_good_actions_need():
    """The last step's noise of good paths is drawn at .24, of bad ones at .10: descent on the loss widens it."""
    policy, params = make(LearnedNoiseOptions(**SMALL))
    obs, action, path, evidence = acted(policy, params, (256,))
    scale = jnp.where(jnp.arange(256) < 128, 1.6, 0.6)[:, None, None]
    drift = policy.steps(params, obs, path)
    spread = path[:, :-1] + drift.move + scale * (path[:, 1:] - path[:, :-1] - drift.move)
    evidence = evidence._replace(path=path.at[:, -1].set(spread[:, -1]))
    advantage = jnp.where(jnp.arange(256) < 128, 1.0, -1.0)
    old = policy.score(params, obs, action, evidence)
    objective = ReinFlow(entropy_weight=0.0)
    loss = lambda p: objective(policy.score(p, obs, action, evidence), old, None, advantage)[0]
    step = jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))
    last = jnp.float32(0.25)
    assert policy.noise(step, obs, last).mean() > policy.noise(params, obs, last).mean() + 1e-3
