"""Non-finite numbers, from the task to the end of the run."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from small import copy

from dipod_jax.training.numbers import find_causes


@pytest.mark.parametrize(("value", "failed"), [(np.nan, 1), (1e9, 0)])
def test_one_observation_of_a_state_that_is_no_measurement_leaves_an_iteration_as_good_as_it_was(fpo, value, failed):
    start, _ = fpo.iterate(fpo.init())
    learner, actor = copy(start)
    physics = actor.env.physics
    actor = actor._replace(env=actor.env._replace(physics=physics._replace(obs=physics.obs.at[0, 5, 1].set(value))))
    spoilt, metrics = fpo.iterate(start._replace(learner=learner, actor=actor))
    sound, _ = fpo.iterate(start)
    assert metrics["skipped_updates"][0] == 0.0 and metrics["skipped_in_a_row"][0] == 0.0
    # a state that is not finite is left at once, one that is 10^9 off when its episode ends
    assert metrics["left_out_transitions"][0] == 1.0 if failed else metrics["left_out_transitions"][0] > 1.0
    assert np.asarray(spoilt.actor.env.num_failures).sum() == failed
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(spoilt.learner.params))
    deviations = [np.asarray(x.learner.obs_statistics.std) for x in (spoilt, sound)]
    if failed:
        assert_allclose(*deviations, rtol=0.03)  # another start state stands in its place
    assert (deviations[0] < 10.0).all()  # 10 rows of 1024, each as if it were 100 off


def test_the_cause_names_what_the_task_gave(fpo):
    _, transitions = jax.device_get(fpo.act(*fpo.init()))
    reward = transitions.reward.copy()
    reward[0, 2:4] = np.nan
    spoilt = transitions._replace(reward=reward)
    assert find_causes((7,), {"skipped_in_a_row": np.array([9.0])}, spoilt) == {}
    assert find_causes((7,), {"skipped_in_a_row": np.array([10.0])}, spoilt) == {
        7: "seed 7: the last 10 updates were skipped, as their gradients are not finite "
        "(reward not finite or over 1e+10 in 128 of 512 transitions)"
    }


def test_a_seed_that_has_diverged_learns_no_more_and_one_that_has_not_does(fpo):
    start, _ = fpo.iterate(fpo.init())
    for count, learns in ((9, True), (10, False)):
        learner, actor = copy(start)
        full = jax.numpy.full_like(learner.optimizer.notfinite_count, count)
        optimizer = learner.optimizer._replace(notfinite_count=full)
        before = jax.device_get(learner.params)
        after, _ = fpo.iterate(start._replace(learner=learner._replace(optimizer=optimizer), actor=actor))
        leaves = map(jax.tree.leaves, (before, after.learner.params))
        same = [np.array_equal(a, b) for a, b in zip(*leaves, strict=True)]
        assert not any(same) if learns else all(same)
        assert after.learner.iteration[0] == 2 and after.learner.optimizer.notfinite_count[0] == (0 if learns else 10)
