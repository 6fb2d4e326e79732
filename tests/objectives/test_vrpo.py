"""VRPO: a preference loss over pairs, and a policy that makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.vrpo import Vrpo
from dipod_jax.policies.paired_flow import PairedFlowOptions
from dipod_jax.presets import make_config


def batch():
    new, old, advantage = random_batch(num_draws=2)
    return new, old, advantage, old + 0.5 * np.random.default_rng(1).standard_normal(old.shape)


def test_value_and_gradient_equal_a_float64_formula():
    new, old, advantage, reference = batch()

    def formula(n):
        total = 0.0
        for l, r, a in zip(n, reference, advantage, strict=True):
            winner, loser = (0, 1) if a > 0 else (1, 0)
            total += np.log1p(np.exp(-2.0 * ((r[winner] - l[winner]) - (r[loser] - l[loser]))))
        return total / len(n)

    assert_allclose(loss_of(Vrpo(2.0), new, old, advantage, reference), formula(new), rtol=1e-5)
    gradient = gradient_of(Vrpo(2.0), new, old, advantage, reference)
    assert_allclose(gradient, numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


def test_at_the_reference_the_better_action_is_drawn_in_and_the_worse_pushed_away_alike():
    _, old, advantage, _ = batch()
    gradient = gradient_of(Vrpo(2.0), old, old, advantage, old)
    # sigma(0) sharpness / B = .5 * 2 / 64
    assert_allclose(gradient, np.sign(advantage)[:, None] * np.array([1.0, -1.0]) / 64, rtol=1e-5)


def test_no_preference_is_no_gradient():
    new, old, _, reference = batch()
    assert_allclose(loss_of(Vrpo(), new, old, np.zeros(64), reference), np.log(2), rtol=1e-6)
    assert_array_equal(gradient_of(Vrpo(), new, old, np.zeros(64), reference), 0.0)


def test_pairs_that_are_told_apart_have_no_gradient_and_those_told_wrongly_a_bounded_one():
    far, zero = np.array([[-1e4, 0.0], [1e4, 0.0]]), np.zeros((2, 2))
    gradient = gradient_of(Vrpo(), far, zero, np.ones(2), zero)
    assert_allclose(gradient, [[0.0, 0.0], [0.5, -0.5]])


def test_only_pairs_are_taken():
    with pytest.raises(AssertionError):
        loss_of(Vrpo(), np.ones((4, 3)), np.ones((4, 3)), np.ones(4), np.ones((4, 3)))


def test_a_policy_scores_an_action_beside_a_fresh_one_of_the_same_state_at_the_same_draws():
    options = PairedFlowOptions((8,), num_draws=4, action_clip=1.0)
    policy, obs, action = options.build(2, 3), jnp.ones((5, 2)), jnp.ones((5, 3))

    @jax.jit
    def run(key):
        params = policy.init(key)
        evidence = policy.prepare(params, key, obs, action)
        pair = [policy.cfm_loss(params, obs, a, evidence.draws).mean(-1) for a in (action, evidence.rival)]
        return evidence, policy.score(params, obs, action, evidence), pair

    evidence, found, (own, other) = run(jax.random.key(0))
    assert len(np.unique(np.asarray(evidence.rival), axis=0)) == 5 and jnp.abs(evidence.rival).max() == 1.0
    assert_allclose(found.loss, np.stack([own, other], -1), rtol=1e-4)
    assert_allclose(found.mean(), own, rtol=1e-4)  # drift is measured of the action that was taken
    assert_allclose(found.bound, own, rtol=1e-4)


def test_its_presets_pair_actions_and_keep_the_last_policy_as_reference():
    for preset in ("paper", "cpu", "smoke"):
        config = make_config(preset, "BallInCup", "vrpo", "native")[0]
        assert config.policy.name == "paired-flow" and config.needs_reference
        assert config.learning.reference_decay == 0.0
