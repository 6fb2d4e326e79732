"""Self-distillation and the controller of beta."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probe_tasks import TargetTask
from small import BASE, probe_programs

from dipod_jax.config import BetaControlConfig, DistillationConfig
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.training.distillation import distil, init_distiller
from dipod_jax.training.drift import control_beta
from dipod_jax.training.sharding import Layout
from dipod_jax.training.state import LearnerState
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Transition

ONE_DEVICE = Layout.on(np.array(jax.devices()[:1])[None])
CONTROL = BetaControlConfig(gap_target=1.0, rise=1.5, release=1.2, initial=0.01, minimum=0.004, maximum=0.02)


def test_beta_moves_by_the_gap_over_its_target_within_rise_and_release():
    # target 1 nat a dimension, d = 2; a negative gap, of a bound tighter than tight, is one under the target
    gap = jnp.array([4.0, 2.4, 2.0, 1.9, 1.0, -1.0])
    moved = control_beta(jnp.full(6, 0.01), gap, CONTROL, action_size=2)
    np.testing.assert_allclose(moved, [0.015, 0.012, 0.01, 0.0095, 0.01 / 1.2, 0.01 / 1.2], rtol=1e-6)


def test_beta_stays_within_its_bounds_and_a_gap_that_is_not_finite_counts_as_large():
    gap = jnp.array([jnp.nan, jnp.inf, 100.0, 0.0])
    moved = control_beta(jnp.array([0.01, 0.01, 0.019, 0.0041]), gap, CONTROL, action_size=2)
    np.testing.assert_allclose(moved, [0.015, 0.015, 0.02, 0.004], rtol=1e-6)


def test_a_run_of_four_actuators_allows_four_times_the_gap():
    """1 nat a dimension: at 3 nats beta falls, at 5 it rises; each seed by its own gap."""

    class FourTargets(TargetTask):
        action_size = 4

    drift = dataclasses.replace(BASE.drift, interval=1)
    config = dataclasses.replace(BASE, beta="auto", beta_control=CONTROL, drift=drift)
    programs = probe_programs(config, (0, 1), FourTargets)
    learner = programs.control_beta(programs.init().learner, np.array([3.6, 5.0]))
    np.testing.assert_allclose(learner.tunables.beta, [0.009, 0.0125], rtol=1e-5)


@pytest.fixture(scope="module")
def acted():
    """A small policy, the rollout it acted, and its learner state."""
    policy = FlowOptions(hidden_sizes=(32, 32), num_steps=5).build(observation_size=1, action_size=1)
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"policy": jax.jit(policy.init)(keys[0]), "critic": {"w": jnp.ones(3)}}
    obs = jax.random.normal(keys[1], (8, 64, 1))
    base_noise = jax.random.normal(keys[2], (8, 64, 1))
    # Far from what the field was fitted to: an untrained field's samples are wide, these are narrow.
    action = 0.2 * jax.jit(policy.sample)(params["policy"], obs, base_noise)[0] + 1.0
    zero, no = jnp.zeros((8, 64)), jnp.zeros((8, 64), bool)
    rollout = Transition(obs, obs, action, base_noise, zero, no, no, zero, zero.astype(jnp.int32))
    learner = LearnerState(
        params=params,
        optimizer={"policy": jnp.ones(2)},
        reference=None,
        distiller=init_distiller(params["policy"]),
        obs_statistics=RunningStatistics.zeros(1),
        tunables=None,  # pyright: ignore
        key=keys[3],
        iteration=jnp.zeros((), jnp.int32),
    )
    return policy, rollout, learner


def on_host(learner):
    return jax.device_get(learner.params)


@pytest.fixture(scope="module")
def three_steps(acted):
    """A phase of three steps, compiled: learner state and rollout to learner state."""
    config = DistillationConfig(interval=1, num_steps=3, learning_rate=3e-3, minibatch_size=256)
    return jax.jit(lambda learner, rollout: distil(config, acted[0], ONE_DEVICE, learner, rollout, jax.random.key(1)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fresh-noise", "pre-image"])
def test_distilling_fits_the_actions_and_touches_nothing_else(acted, target):
    policy, rollout, learner = acted
    config = DistillationConfig(interval=1, num_steps=200, learning_rate=3e-3, minibatch_size=256, target=target)
    after = jax.jit(lambda state: distil(config, policy, ONE_DEVICE, state, rollout, jax.random.key(1)))(learner)

    draws = policy.sample_draws(jax.random.key(2), (8, 64))
    loss = lambda state: float(policy.cfm_loss(state.params["policy"], rollout.obs, rollout.action, draws).mean())
    assert loss(after) < 0.6 * loss(learner)
    for part in ("optimizer", "obs_statistics", "iteration"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(learner, part))
    np.testing.assert_array_equal(after.params["critic"]["w"], learner.params["critic"]["w"])
    assert int(jax.tree.leaves(after.distiller)[0]) == 200  # its own optimiser counted every step


def test_unsound_transitions_are_not_distilled(acted, three_steps):
    _, rollout, learner = acted
    run = partial(three_steps, learner)
    spoilt = [rollout._replace(action=rollout.action.at[:4].set(value)) for value in (jnp.nan, jnp.inf)]
    first, second = map(run, spoilt)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), *map(on_host, (first, learner))))
    assert all(np.isfinite(moved)) and max(moved) > 1e-3
    # a phase with nothing to learn from leaves the policy as it was
    none = run(rollout._replace(action=jnp.full_like(rollout.action, jnp.nan)))
    jax.tree.map(np.testing.assert_array_equal, none.params["policy"], learner.params["policy"])


def test_a_phase_sees_normalised_observations_takes_rows_from_everywhere_and_clips_its_gradient(acted, three_steps):
    _, rollout, learner = acted
    run = three_steps
    plain = run(learner, rollout)
    # deviation 2 about 5
    statistics = RunningStatistics(jnp.float32(10.0), jnp.array([5.0]), jnp.array([40.0]))
    shifted = rollout._replace(obs=5.0 + 2.0 * rollout.obs, next_obs=5.0 + 2.0 * rollout.next_obs)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, run(learner._replace(obs_statistics=statistics), shifted).params, plain.params)
    for part in (slice(0, 2), slice(6, 8)):
        other = run(learner, rollout._replace(action=rollout.action.at[part].add(3.0)))
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), on_host(other)["policy"], on_host(plain)["policy"])
        assert max(jax.tree.leaves(apart)) > 1e-4, part
    # Adam's first moment holds .1 g + .09 g' + .081 g'' of gradients at most 1 long, here of one direction
    far = run(learner, rollout._replace(action=100.0 * rollout.action)).distiller[1]
    assert int(far.count) == 3
    assert 0.2 < float(optax.tree.norm(far.mu)) <= 0.271


def test_distilled_actions_move_to_the_actions_that_were_distilled(acted):
    policy, rollout, learner = acted
    config = DistillationConfig(interval=1, num_steps=400, learning_rate=3e-3, minibatch_size=64)
    after = jax.jit(lambda state: distil(config, policy, ONE_DEVICE, state, rollout, jax.random.key(1)))(learner)
    sample = jax.jit(policy.sample)
    acted_now = sample(after.params["policy"], rollout.obs, rollout.trace)[0]
    assert abs(float(acted_now.mean() - rollout.action.mean())) < 0.1
    assert abs(float(sample(learner.params["policy"], rollout.obs, rollout.trace)[0].mean()) - 1.0) > 0.5


@pytest.mark.slow
def test_redrawn_actions_are_the_policys_own_whatever_was_taken(acted):
    policy, rollout, learner = acted
    config = DistillationConfig(interval=1, num_steps=400, learning_rate=3e-3, minibatch_size=256, actions="redrawn")
    run = jax.jit(
        lambda rollout: distil(config, policy, ONE_DEVICE, learner, rollout, jax.random.key(1)).params["policy"]
    )
    after, other = run(rollout), run(rollout._replace(action=rollout.action + 7.0, trace=rollout.trace + 1.0))
    jax.tree.map(np.testing.assert_array_equal, after, other)
    noise = jax.random.normal(jax.random.key(2), rollout.trace.shape)
    acts = lambda params: policy.sample(params, rollout.obs, noise)[0]
    mean, std = acts(learner.params["policy"]).mean(), acts(learner.params["policy"]).std()
    # Euler steps contract (docs/bounds.md: .77 at K = 5 in a fit without error); the mean stays.
    assert abs(float(acts(after).mean() - mean)) < 0.1
    assert 0.65 < float(acts(after).std() / std) < 0.95


def test_distillation_is_refused_where_there_is_no_bound():
    from dipod_jax.presets import make_config

    with pytest.raises(ValueError, match=r"--distillation\.interval 5 is not allowed: 0 with the objective ppo"):
        dataclasses.replace(make_config("cpu", "BallInCup", "ppo")[0], distillation=DistillationConfig(interval=5))
