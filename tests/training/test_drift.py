"""What the drift meter is fed with: which transitions, with what beside them."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small import BASE

from dipod_jax.training import drift

NUM_SAMPLES = 128


@pytest.fixture(scope="module")
def fed(fpo):
    """A rollout, the learner that acted it, and the batch and loss that the meter is given of it."""
    state = fpo.init()
    state, _ = fpo.iterate(state)  # so that there are statistics to normalise with
    _, transitions = fpo.act(state.learner, state.actor)
    learner, rollout = (jax.tree.map(lambda x: x[0], jax.device_get(tree)) for tree in (state.learner, transitions))

    def measure(rollout, key):
        given = {}

        def keep(velocity_fn, params, batch, key, *, times, loss_fn, settings):
            given.update(batch=batch, loss=loss_fn(params), times=times)
            return {}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drift, "drift_metrics", keep)
            drift.measure_drift(fpo.learner, fpo.policy.field, learner, rollout, key, NUM_SAMPLES)
        return given | {"advantage": fpo.learner.advantages(learner, rollout)}

    measure = jax.jit(measure)
    return rollout, learner, jax.device_get(measure(rollout, jax.random.key(3))), measure


def rows_of(rollout, batch):
    """Which transition (T B) each sample is, by its base noise, which no two share."""
    noise = rollout.trace.reshape(-1)
    return np.array([np.flatnonzero(noise == x)[0] for x in batch.base_noise[:, 0]])


def test_samples_are_different_transitions_from_all_over_the_rollout(fed):
    rollout, _, given, _ = fed
    rows = rows_of(rollout, given["batch"])
    steps, envs = rollout.reward.shape
    assert len(set(rows)) == NUM_SAMPLES < rollout.reward.size == steps * envs
    # 128 of 512 without replacement: 16 of 64 in each of 8 steps, standard deviation 3.2
    assert (np.abs(np.bincount(rows // envs, minlength=steps) - NUM_SAMPLES / steps) < 4 * 3.2).all()
    assert (np.diff(rows) < 0).any()


def test_observation_noise_action_and_advantage_are_of_one_transition(fed):
    rollout, learner, given, _ = fed
    batch = given["batch"]
    rows = rows_of(rollout, batch)
    statistics = learner.obs_statistics
    std = np.sqrt(statistics.sum_of_squares / statistics.count)
    assert_allclose(batch.obs, ((rollout.obs - statistics.mean) / std).reshape(-1, 2)[rows], atol=1e-5)
    assert_array_equal(batch.action, rollout.action.reshape(-1, 1)[rows])
    assert_allclose(batch.advantage, given["advantage"].reshape(-1)[rows], atol=1e-6)
    assert batch.draws.t.shape == (NUM_SAMPLES, BASE.policy.num_draws)


def test_advantages_are_standardised_over_the_whole_rollout(fed):
    rollout, _, given, _ = fed
    advantage = np.float64(given["advantage"])
    assert advantage.shape == rollout.reward.shape
    assert_allclose((advantage.mean(), advantage.std()), (0.0, 1.0), atol=1e-4)
    assert abs(given["batch"].advantage.mean()) > 1e-4  # not once more over the slice


def test_the_loss_that_is_differentiated_is_the_objective_at_a_ratio_of_one(fed):
    _, _, given, _ = fed
    assert_allclose(given["loss"], -given["batch"].advantage.mean(), atol=1e-5)


def test_a_slice_is_no_larger_than_the_rollout_and_even(fpo):
    """Of 33 x 3 = 99 transitions, 98."""
    sizes = []
    config = replace(BASE, drift=replace(BASE.drift, num_samples=512))
    with pytest.MonkeyPatch.context() as patch:
        from dipod_jax.training import programs

        patch.setattr(programs, "measure_drift", lambda *args: sizes.append(args[-1]) or {})
        of_seed = programs._SeedPrograms(config, fpo.env, fpo.env, fpo.policy, fpo.critic, fpo.learner, 4)
        learner = jax.tree.map(lambda x: x[0], fpo.init().learner)
        for shape in ((3, 33), (32, 64)):
            reward = np.zeros(shape)
            of_seed.measure(learner, type("Rollout", (), {"reward": reward})())
    assert sizes == [98, 512]


def test_an_unsound_transition_is_not_measured(fed):
    rollout, _, given, measure = fed
    rows = rows_of(rollout, given["batch"])
    reward = rollout.reward.reshape(-1).copy()
    reward[rows[:100]] = np.nan  # most of those that would be taken
    spoilt = jax.device_get(measure(rollout._replace(reward=reward.reshape(rollout.reward.shape)), jax.random.key(3)))
    taken = rows_of(rollout, spoilt["batch"])
    assert not set(taken) & set(rows[:100]) and set(rows[100:]) < set(taken)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(spoilt))
