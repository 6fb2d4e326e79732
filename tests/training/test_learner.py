"""One update: skipped steps, rates, segments, samples whose likelihood is not known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small import BASE, as_numbers, assert_same_bits, of_objective

from dipod_jax.advantages import ADVANTAGES
from dipod_jax.config import LearningConfig
from dipod_jax.objectives.ppo import ExactPpo
from dipod_jax.policies.critic import Critic
from dipod_jax.training.learner import Learner, _summarise, learning_rate, make_optimizer, shuffled
from dipod_jax.training.sharding import Layout
from dipod_jax.training.state import LearnerState, Tunables
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Transition, make_scores, matched


def layout(num_devices):
    return Layout.on(np.array(jax.devices()[:num_devices])[None])


def random_rollout(seed=0, num_steps=8, num_envs=64):
    """Transitions (T, B) with terminations, truncations and rewards of both signs, acted by nobody."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal((num_steps, num_envs, *shape)).astype(np.float32)
    end = rng.random((num_steps, num_envs))
    terminated, truncated = end < 0.05, (end > 0.05) & (end < 0.15)
    length = np.where(terminated | truncated, 5, 0).astype(np.int32)
    return Transition(
        2.0 + normal(2), 2.0 + normal(2), normal(1), (), normal(), terminated, truncated, 3.0 * (length > 0), length
    )


@pytest.fixture(scope="module")
def gaussian():
    """How to make a learner of a Gaussian policy, its state, and a rollout (T, B) = (8, 64) to learn from."""
    base = of_objective("ppo")
    policy, critic = base.policy.build(2, 1), Critic(base.critic, 2)

    def make(num_devices=1, **options):
        config = replace(base, learning=replace(base.learning, **options))
        return Learner(config, policy, critic, layout(num_devices))

    params = {"policy": policy.init(jax.random.key(0)), "critic": critic.init(jax.random.key(1))}
    state = LearnerState(
        params=params,
        optimizer=make(**WHOLE).optimizer.init(params),
        distiller=(),
        reference=None,
        obs_statistics=RunningStatistics.zeros(2),
        tunables=Tunables.of(base),
        key=jax.random.key(2),
        iteration=jnp.int32(0),
    )
    return make, state, random_rollout()


WHOLE = dict(minibatch_size=512, num_epochs=1, policy_gradient_clip=None)  # one gradient step on everything


@pytest.fixture(scope="module")
def one_step(gaussian):
    return jax.jit(gaussian[0](**WHOLE).update)


@pytest.mark.slow
@pytest.mark.parametrize("advantages", ["iteration", "minibatch"])
def test_an_update_on_two_devices_is_that_on_one(gaussian, advantages):
    make, state, rollout = gaussian
    options = dict(advantages=advantages, unroll_length=4, minibatch_size=128, num_epochs=2)
    key, results = jax.random.key(0), []
    for devices in (1, 2):
        learner = make(devices, **options)
        rows = learner.layout.sharding(None, "data")
        spread = jax.tree.map(lambda x, where=rows: jax.device_put(x, where), rollout)
        start = state._replace(optimizer=learner.optimizer.init(state.params))
        results.append(jax.jit(learner.update)(start, spread, key))
    (one, one_metrics), (two, two_metrics) = map(jax.device_get, map(as_numbers, results))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert one_metrics.keys() == two_metrics.keys()
    for name, value in one_metrics.items():
        assert_allclose(value, two_metrics[name], rtol=1e-4, atol=1e-5)  # a mean near 0 is the most rounded


@pytest.mark.parametrize("field", ["reward", "action"])
def test_where_no_transition_is_sound_the_update_is_skipped_and_counted(gaussian, one_step, field):
    _, state, transitions = gaussian
    none = transitions._replace(**{field: np.full_like(getattr(transitions, field), np.nan)})
    after, metrics = one_step(state, none, jax.random.key(0))
    assert metrics["skipped_updates"] == metrics["skipped_in_a_row"] == 1.0
    again, metrics = one_step(after, none, jax.random.key(0))
    assert metrics["skipped_updates"] == 1.0 and metrics["skipped_in_a_row"] == 2.0
    adam = lambda state: state.optimizer.inner_state
    assert_same_bits((after.params, adam(after)), (state.params, adam(state)))
    good, metrics = one_step(state, transitions, jax.random.key(0))
    assert metrics["skipped_updates"] == metrics["skipped_in_a_row"] == good.optimizer.total_notfinite == 0
    assert one_step(again, transitions, jax.random.key(0))[1]["skipped_in_a_row"] == 0.0
    # the observations were sound, and are learned from
    assert_same_bits(after.obs_statistics, good.obs_statistics)


@pytest.mark.parametrize("field", ["obs", "next_obs", "action", "reward"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e11])
def test_an_unsound_transition_is_left_out_alone(gaussian, one_step, field, value):
    """Whatever else stands in it makes no difference, and the others are learned from."""
    _, state, transitions = gaussian
    where = (slice(3, 5), 7)  # in the middle of an episode, or at its end
    results = []
    for others in (0.0, 5.0):
        spoilt = {name: np.array(getattr(transitions, name)) for name in ("obs", "next_obs", "action", "reward")}
        for name, numbers in spoilt.items():
            if name != "obs":  # of which the step before may see the value
                numbers[where] = others
        spoilt[field][(*where, *[0] * (spoilt[field].ndim - 2))] = value
        results.append(one_step(state, transitions._replace(**spoilt), jax.random.key(0)))
    (a, metrics), (b, _) = results
    assert metrics["left_out_transitions"] == 2.0 and metrics["skipped_updates"] == 0.0
    for leaf, other in zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True):
        assert_allclose(leaf, other, atol=1e-7)
    whole, _ = one_step(state, transitions, jax.random.key(0))
    moved = lambda after: np.concatenate([np.ravel(x) for x in jax.tree.leaves(after.optimizer.inner_state)])
    assert np.corrcoef(moved(a), moved(whole))[0, 1] > 0.9  # 2 of 512
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_step_before_one_that_is_left_out_looks_no_further_than_its_next_value(gaussian):
    make, state, transitions = gaussian
    transitions = transitions._replace(terminated=np.zeros((8, 64), bool), truncated=np.zeros((8, 64), bool))
    reward = transitions.reward.copy()
    reward[4, 0] = np.nan
    advantage = jax.jit(make(**WHOLE).advantages)(state, transitions._replace(reward=reward))
    cut = transitions.truncated.copy()
    cut[3, 0] = True
    expected = np.asarray(jax.jit(make(**WHOLE).advantages)(state, transitions._replace(truncated=cut)))
    assert advantage[4, 0] == 0.0
    # equal but for the one number that the mean and the deviation lack
    ours = np.asarray(advantage)
    slope, offset = np.polyfit(expected[:, 1:].ravel(), ours[:, 1:].ravel(), 1)
    assert_allclose(ours[:4, 0], slope * expected[:4, 0] + offset, atol=1e-4)


def test_the_learning_rate_falls_linearly_to_its_last_value(gaussian):
    state = gaussian[1]
    tunables = state.tunables._replace(
        learning_rate=jnp.float32(1.0), final_learning_rate=jnp.float32(0.2), num_iterations=jnp.float32(5.0)
    )
    rates = [float(learning_rate(state._replace(tunables=tunables, iteration=jnp.int32(i)))) for i in (0, 1, 2, 4, 9)]
    assert_allclose(rates, [1.0, 0.8, 0.6, 0.2, 0.2], rtol=1e-6)
    constant = Tunables.of(BASE)
    assert constant.learning_rate == constant.final_learning_rate


def test_a_shuffle_holds_every_row_once_and_another_key_shuffles_otherwise():
    one, other = (np.asarray(shuffled(jax.random.key(k), 1000)) for k in (0, 1))
    assert_array_equal(np.sort(one), np.arange(1000))
    assert 0.4 < (one < other).mean() < 0.6 and abs(np.corrcoef(one, np.arange(1000))[0, 1]) < 0.1


def test_blocks_that_are_shuffled_are_as_many_on_one_device_as_on_two():
    layouts = [Layout.on(np.array(jax.devices()[:n])[None]) for n in (1, 2)]
    sizes = lambda envs, minibatch: replace(
        BASE, rollout=replace(BASE.rollout, num_envs=envs), learning=replace(BASE.learning, minibatch_size=minibatch)
    )
    for envs, minibatch, blocks in ((16, 64, 8), (16, 4, 4), (24, 12, 6)):
        assert [layout.num_blocks(sizes(envs, minibatch)) for layout in layouts] == [blocks, blocks]


@pytest.mark.slow
def test_an_update_under_a_kl_target_moves_the_rate_at_every_step_after_the_first_and_keeps_it(gaussian):
    make, state, rollout = gaussian
    learner = make(minibatch_size=512, num_epochs=3, policy_gradient_clip=None, kl_target=1e3)
    after, metrics = jax.jit(learner.update)(state, rollout, jax.random.key(0))
    # the KL is 0 at the first of the three steps
    assert_allclose(after.tunables.learning_rate, 1.5**2 * 3e-3, rtol=1e-5)
    assert after.tunables.final_learning_rate == after.tunables.learning_rate
    assert_allclose(metrics["learning_rate"], 3e-3 * (1 + 1.5 + 1.5**2) / 3, rtol=1e-5)
    assert 0 < metrics["kl"] < 1 and state.tunables.learning_rate == jnp.float32(3e-3)


def test_means_over_an_iteration_leave_skipped_steps_out():
    taken = jnp.array([[True, False], [True, True]])
    values = jnp.array([[1.0, jnp.nan], [2.0, 6.0]])
    assert _summarise("policy_gradient_norm", values, taken) == 3.0
    assert jnp.isnan(_summarise("policy_loss", values, jnp.zeros((2, 2), bool)))
    assert _summarise("skipped_updates", 1.0 - taken, taken) == 1.0


def test_a_sample_of_unknown_likelihood_changes_neither_ratio_nor_gradient():
    old = jnp.array([[1.0], [jnp.nan], [2.0], [3.0]])
    advantage = jnp.array([1.0, 5.0, -5.0, -1.0])

    def loss(loss_new):
        new, known_old = matched(make_scores(loss_new), make_scores(old))
        return ExactPpo(clip_epsilon=0.1)(new, known_old, None, advantage)[0], new.known

    (_, known), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.array([[1.0], [1.0], [jnp.nan], [3.0]]))
    assert_array_equal(known[:, 0], [True, False, False, True])
    # at ratio 1 the gradient in the loss is A / B
    assert_allclose(gradient[:, 0], [0.25, 0.0, 0.0, -0.25])


class PartlyUnknown:
    """A policy that does not know the score of some actions, and gives `wrong` times their loss."""

    def __init__(self, policy, wrong):
        self.policy, self.wrong = policy, wrong

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def score(self, params, obs, action, evidence):
        scores = self.policy.score(params, obs, action, evidence)
        known = scores.known & (obs[..., :1] < 2.5)
        return scores._replace(loss=jnp.where(known, scores.loss, self.wrong * scores.loss), known=known)


def test_an_update_takes_nothing_from_a_score_that_is_not_known(gaussian):
    make, state, rollout = gaussian
    learners = [make(**WHOLE) for _ in range(2)]
    for learner, wrong in zip(learners, (1.0, -3.0), strict=True):
        learner.policy = PartlyUnknown(learner.policy, wrong)
    (one, metrics), (other, _) = (jax.jit(x.update)(state, rollout, jax.random.key(0)) for x in learners)
    assert 0.2 < metrics["unknown_likelihood"] < 0.4
    assert_same_bits(one.params, other.params)


def test_the_meters_advantages_are_of_the_whole_rollout_however_training_computes_them(gaussian):
    make, state, rollout = gaussian
    found = [jax.jit(make(advantages=way, unroll_length=4).advantages)(state, rollout) for way in ADVANTAGES]
    assert len(found) == 2
    assert_array_equal(*found)


@pytest.mark.parametrize(("decay", "bound"), [(0.9, 1.0), (0.999, 7.27)])
def test_a_critics_step_is_no_larger_than_the_rate_where_both_decays_are_the_same(decay, bound):
    """|m| <= (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) sqrt(v) by Cauchy and Schwarz, with equality for gradients that
    grow by b2 / b1 a step after a long nothing."""
    optimizer = make_optimizer(LearningConfig(critic_second_moment_decay=decay))
    params = {"policy": jnp.zeros(3), "critic": jnp.zeros(3)}
    growth = decay / 0.9
    worst = np.concatenate([np.zeros(10_000), 1e-3 * growth ** np.arange(60.0)])
    steep = np.concatenate([np.full(2000, 1e-3), 1e-3 * 4.0 ** np.arange(20.0)])
    uneven = np.random.default_rng(0).lognormal(0.0, 3.0, 2000)
    update = lambda state, g: optimizer.update({"policy": jnp.full(3, g), "critic": jnp.full(3, g)}, state)[::-1]
    largest = []
    for gradients in (worst, steep, uneven):
        _, steps = jax.lax.scan(update, optimizer.init(params), jnp.asarray(gradients, jnp.float32))
        largest.append(np.abs(steps["critic"]).max())
    assert max(largest) <= bound * 1.001
    assert largest[0] > 0.99 * bound
