"""One whole update against an independent float64 loop: every part of it takes part, and every one is seen."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal
from numpy_learner import Flow, Gaussian, NumpyLearner, layers

from dipod_jax.config import Config, DriftConfig, LearningConfig, RolloutConfig
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.ppo import Ppo
from dipod_jax.policies.critic import Critic, CriticOptions
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.gaussian import GaussianOptions
from dipod_jax.regularisers.entropy import Entropy
from dipod_jax.regularisers.k2 import K2
from dipod_jax.training.learner import Learner
from dipod_jax.training.sharding import Layout
from dipod_jax.training.state import LearnerState, Tunables
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Transition

STEPS, ENVS, OBS, ACTION, ITERATION, ITERATIONS = 8, 12, 3, 2, 3, 11
NETWORK = dict(hidden_sizes=(4,), activation="tanh")
# No option has its default value: one that is taken from the wrong place is noticed.
LEARNING = LearningConfig(
    learning_rate=4e-3,
    final_learning_rate=1e-3,
    advantages="iteration",
    minibatch_size=24,
    unroll_length=4,
    num_epochs=3,
    discount=0.9,
    gae_lambda=0.8,
    reward_scale=3.0,
    value_coefficient=0.6,
    advantage_clip=1.2,
    policy_gradient_clip=3.0,
    critic_gradient_clip=5.0,
    critic_second_moment_decay=0.95,
    reference_decay=0.75,
)
BASE = Config(
    Ppo(clip_epsilon=0.02),
    GaussianOptions(**NETWORK),
    backend="native",
    critic=CriticOptions(**NETWORK),
    rollout=RolloutConfig(num_envs=ENVS, num_steps=STEPS),
    learning=LEARNING,
    drift=DriftConfig(interval=0),
    total_steps=STEPS * ENVS * ITERATIONS,
)
GAUSSIAN = replace(BASE, regularisers=replace(BASE.regularisers, entropy=Entropy(0.05), k2=K2(0.3)))
SEGMENTS = replace(GAUSSIAN, learning=replace(LEARNING, advantages="minibatch"))
FLOW = replace(
    BASE,
    objective=Fpo(clip_epsilon=0.01),
    policy=FlowOptions(**NETWORK, num_steps=5, num_draws=3),
    beta=0.4,
    learning=replace(LEARNING, advantages="minibatch", policy_gradient_clip=0.035),
    regularisers=replace(BASE.regularisers, k2=K2(0.3)),
)
CASES = {"iteration": (GAUSSIAN, Gaussian()), "minibatch": (SEGMENTS, Gaussian()), "flow": (FLOW, Flow())}


def random_rollout(trace, seed=0):
    """Transitions (T, B) with both kinds of end, also in the last step, and next observations unlike the following."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal((STEPS, ENVS, *shape)).astype(np.float32)
    end = rng.random((STEPS, ENVS))
    end[-1, :2], end[2, 2:4] = (0.05, 0.15), (0.05, 0.15)
    terminated, truncated = end < 0.1, (end > 0.1) & (end < 0.25)
    length = np.where(terminated | truncated, rng.integers(1, 30, end.shape), 0).astype(np.int32)
    obs, next_obs = 2.0 + 1.5 * normal(OBS), 2.0 + 1.5 * normal(OBS)
    score = np.where(length > 0, normal(), 0.0).astype(np.float32)
    return Transition(obs, next_obs, normal(ACTION), trace, normal() + 0.5, terminated, truncated, score, length)


def start_state(learner):
    """Parameters, another reference and statistics of observations, in the middle of a run."""
    keys = jax.random.split(jax.random.key(5), 3)
    policy = learner.policy.init(keys[0])
    params = {"policy": policy, "critic": learner.critic.init(keys[1])}
    return LearnerState(
        params=params,
        optimizer=learner.optimizer.init(params),
        distiller=(),
        reference=jax.tree.map(lambda x: x + 0.02, policy),
        obs_statistics=RunningStatistics(
            jnp.float32(50.0), jnp.array([1.0, 2.0, 3.0]), jnp.array([50.0, 200.0, 450.0])
        ),
        tunables=Tunables.of(learner.config),
        key=keys[2],
        iteration=jnp.int32(ITERATION),
    )


@pytest.fixture(scope="module", params=CASES)
def updated(request):
    """The learner's new state and metrics on two devices, the numpy learner's, and the rollout learned from."""
    config, family = CASES[request.param]
    layout = Layout.on(np.array(jax.devices()[:2])[None])
    learner = Learner(config, config.policy.build(OBS, ACTION), Critic(config.critic, OBS), layout)
    state, key = start_state(learner), jax.random.key(6)
    rollout = random_rollout(np.zeros((STEPS, ENVS, ACTION), np.float32) if request.param == "flow" else ())
    spread = jax.tree.map(lambda x: jax.device_put(x, layout.sharding(None, "data")), rollout)
    after, metrics = jax.device_get(jax.jit(learner.update)(state, spread, key))
    # six blocks: the most up to 8 that divide 12 environments, the columns of a minibatch, and fall on two devices;
    # linear from 4e-3 to 1e-3 over 11 iterations: .0031 in the fourth
    nets = {name: layers(p) for name, p in state.params.items()}
    by_hand = NumpyLearner(
        learner, family, nets, layers(state.reference), np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), 0.0031, 6
    )
    by_hand.update(rollout, key)
    return after, metrics, by_hand, rollout, state


def test_the_parameters_after_three_epochs_are_those_of_the_loop(updated):
    after, _, by_hand, _, state = updated
    for name, net in by_hand.params.items():
        before = layers(state.params[name])
        for ours, theirs, first in zip(layers(after.params[name]), net, before, strict=True):
            assert_allclose(ours - first, theirs - first, atol=3e-6)  # measured 4e-7
            assert np.abs(theirs - first).max() > 1e-3


def test_adams_moments_are_those_of_the_clipped_gradients(updated):
    after, _, by_hand, _, state = updated
    for name, clipped in by_hand.clipped.items():
        assert 0 < sum(clipped) < len(clipped) == 12  # the clip of each acts in some steps and not in others
        adam = after.optimizer.inner_state.inner_states[name].inner_state[1]
        assert adam.count == 12
        unravel = ravel_pytree(state.params[name])[1]  # the optimizer sees one vector
        for moments, expected in ((adam.mu, by_hand.first[name]), (adam.nu, by_hand.second[name])):
            for ours, theirs in zip(layers(unravel(moments[name])), expected, strict=True):
                assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3 * np.abs(theirs).max())


def test_the_metrics_are_means_over_all_gradient_steps(updated):
    _, metrics, by_hand, *_ = updated
    for name in by_hand.metrics[0]:
        if name == "entropy" and isinstance(by_hand.family, Flow):
            continue
        values = [m[name] for m in by_hand.metrics]
        assert_allclose(metrics[name], np.mean(values), rtol=1e-3, atol=1e-4, err_msg=name)
        assert np.std(values) > 0, name
    assert 0.02 < metrics["clip_fraction"] < 0.95  # some ratios are clipped and some are not
    assert metrics["first_ratio_error"] < 1e-5 and metrics["skipped_updates"] == 0.0
    assert abs(metrics["unknown_likelihood"]) < 1e-6


def test_the_metrics_of_the_rollout_are_sums_over_its_episodes(updated):
    _, metrics, by_hand, rollout, _ = updated
    ended = rollout.episode_length > 0
    assert metrics["episodes"] == ended.sum() > 10
    assert_allclose(metrics["episode_return"], rollout.episode_return[ended].mean(), rtol=1e-4)
    assert_allclose(metrics["episode_length"], rollout.episode_length[ended].mean(), rtol=1e-5)
    assert_allclose(metrics["reward"], rollout.reward.mean(), rtol=1e-4)  # as the environment gave it, not scaled
    assert_allclose(metrics["action_magnitude"], np.abs(rollout.action).mean(), rtol=1e-5)
    score = "cfm_loss" if isinstance(by_hand.family, Flow) else "negative_log_prob"
    assert_allclose(metrics[score], by_hand.old.mean(), rtol=1e-5)


def test_the_reference_moves_to_the_new_policy_once_an_update(updated):
    after, _, by_hand, *_ = updated
    for ours, theirs in zip(layers(after.reference), by_hand.reference, strict=True):
        assert_allclose(ours, theirs, atol=1e-5)


def test_the_statistics_take_the_rollouts_observations_in_and_nothing_else(updated):
    after, _, _, rollout, state = updated
    n, obs = 50 + STEPS * ENVS, np.float64(rollout.obs).reshape(-1, OBS)
    mean = (50 * np.array([1.0, 2.0, 3.0]) + obs.sum(0)) / n
    # 50 observations of deviations 1, 2 and 3 around means 1, 2 and 3
    second_moment = (50 * 2 * np.array([1.0, 4.0, 9.0]) + (obs**2).sum(0)) / n
    statistics = after.obs_statistics
    assert statistics.count == n
    assert_allclose(statistics.mean, mean, rtol=1e-5)
    assert_allclose(statistics.sum_of_squares / n, second_moment - mean**2, rtol=1e-4)
    assert_array_equal(after.iteration, state.iteration)  # counted by the program
