"""The programs on a task whose optimum is known, and their invariants: ratios, devices, seeds, sweeps."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from probe_tasks import TargetTask
from small import (
    BASE,
    EPISODE,
    TINY,
    as_numbers,
    assert_same_bits,
    copy,
    of_objective,
    probe_programs,
)

from dipod_jax.config import DistillationConfig, DriftConfig
from dipod_jax.diagnostics import MeterSettings
from dipod_jax.envs import BatchedEnv
from dipod_jax.training import drift, sharding
from dipod_jax.training import programs as programs_module
from dipod_jax.training.sharding import Layout
from dipod_jax.training.state import Tunables


@pytest.fixture(
    scope="module", params=["fpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("exact-ppo", "ppo"))]
)
def trained(request, fpo):
    """Trainer, evaluation before, state, metrics of every iteration, evaluation after."""
    programs = fpo if request.param == "fpo" else probe_programs(of_objective(request.param))
    state = programs.init()
    before = programs.evaluate(state.learner, 64)
    history = []
    for _ in range(100):
        state, metrics = programs.iterate(state)
        history.append({name: float(value[0]) for name, value in jax.device_get(metrics).items()})
    return programs, before, state, history, programs.evaluate(state.learner, 64)


def test_a_reward_under_the_least_ends_an_episode_of_training_and_not_of_evaluation():
    config = replace(BASE, rollout=replace(BASE.rollout, terminate_below=2.0))  # TargetTask pays 1 at most
    programs = probe_programs(config)
    for env, ended in ((programs.env, True), (programs.evaluation_env, False)):
        state = env.reset(jax.random.key(0), 4)
        assert env.step(state, jnp.zeros((4, 1)))[1].terminated.tolist() == [ended] * 4


def test_a_task_is_loaded_once_for_training_and_evaluation_whose_time_limits_differ(monkeypatch):
    loaded = []
    monkeypatch.setattr(programs_module, "EVALUATION_EPISODE_LENGTH", EPISODE + 1)
    monkeypatch.setattr(
        programs_module.envs,
        "make",
        lambda name, backend, *, episode_length, terminate_below, num_worlds, mesh: (
            loaded.append(name) or BatchedEnv(TargetTask(), episode_length, mesh)
        ),
    )
    programs = programs_module.make_programs(BASE, (0,))
    assert loaded == [BASE.task]
    assert (programs.env.episode_length, programs.evaluation_env.episode_length) == (EPISODE, EPISODE + 1)
    with pytest.raises(ValueError, match="a multiple of the 2 devices"):  # still spread over them
        programs.evaluation_env.reset(jax.random.key(0), 3)


@pytest.mark.slow
def test_a_known_optimum_is_found(trained):
    _, before, _, history, after = trained
    # the best return is 10, that of action 0 is 7.5, that of a standard normal pre-tanh action 10 (1 - .25 - .39) = 3.6
    assert before.random_noise.mean() < 7.5
    assert after.random_noise.mean() > 9.0 and after.zero_noise.mean() > 9.0
    assert history[-1]["reward"] > 0.88 > history[0]["reward"]


def test_the_first_ratio_of_every_iteration_is_one(trained):
    _, _, _, history, _ = trained
    assert max(h["first_ratio_error"] for h in history) < 1e-5
    assert min(abs(h["loss_change"]) for h in history) > 0  # and later ones are not: the parameters move


def test_statistics_are_those_of_every_observation_seen_so_far(trained):
    programs, _, state, history, _ = trained
    assert state.learner.obs_statistics.count[0] == len(history) * programs.config.steps_per_iteration
    assert_array_equal(state.learner.iteration, [len(history)])


def test_statistics_are_numpys_over_several_rollouts(fpo):
    state, seen = fpo.init(), []
    for _ in range(4):
        actor, transitions = fpo.act(state.learner, state.actor)
        learner, _ = fpo.learn(state.learner, transitions)
        state = state._replace(learner=learner, actor=actor)
        seen.append(np.float64(transitions.obs[0]).reshape(-1, 2))
    seen, statistics = np.concatenate(seen), jax.tree.map(lambda x: x[0], state.learner.obs_statistics)
    assert statistics.count == len(seen) == 4 * 64 * 8
    assert_allclose(statistics.mean, seen.mean(0), atol=1e-6)
    assert_allclose(statistics.std, seen.std(0), rtol=1e-6)


def test_episodes_are_counted_with_their_length(trained):
    history = trained[3]
    # 64 staggered clocks over 10 steps: 8 of them pass the limit in 8 steps, 51.2 on average; the first are cut short
    assert_allclose(np.mean([h["episodes"] for h in history]), 51.2, rtol=0.05)
    assert history[-1]["episode_length"] == EPISODE and history[0]["episode_length"] < EPISODE
    assert_allclose(history[-1]["episode_return"], EPISODE * history[-1]["reward"], rtol=0.05)
    assert np.asarray(trained[2].actor.env.num_failures).sum() == 0


def test_the_stored_action_is_what_the_policy_made_of_the_stored_noise(fpo):
    state = fpo.init()
    params = jax.tree.map(lambda x: x[0], jax.device_get(state.learner.params["policy"]))
    _, transitions = fpo.act(state.learner, state.actor)
    transitions = jax.tree.map(lambda x: x[0], jax.device_get(transitions))
    # nothing was seen yet, so nothing is normalised
    action, _ = jax.jit(fpo.policy.sample)(params, transitions.obs, transitions.trace)
    assert_allclose(transitions.action, np.clip(action, -1.5, 1.5), atol=1e-5)
    assert 0.01 < (np.abs(transitions.action) == 1.5).mean() < 0.9
    # and the environment was given its tanh
    assert_allclose(transitions.reward, 1 - np.square(np.tanh(transitions.action[..., 0]) - 0.5), atol=1e-5)


@pytest.fixture(scope="module")
def on_one_and_two_devices():
    """What every program gives of the same state, on one device and spread over two."""
    config = replace(
        BASE,
        policy=replace(BASE.policy, action_noise=0.1, num_steps=2, num_draws=2, hidden_sizes=(4,)),
        learning=replace(BASE.learning, num_epochs=2),
        drift=DriftConfig(interval=1, num_samples=64),
        distillation=DistillationConfig(interval=1, num_steps=8, minibatch_size=64, actions="redrawn"),
    )
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "MeterSettings", partial(MeterSettings, refit_steps=0))
        for devices in (1, 2):
            on = Layout.on(np.array(jax.devices()[:devices])[None])
            patch.setattr(programs_module.Layout, "of", lambda config, num_seeds, on=on: on)
            programs = probe_programs(config)
            assert programs.layout.shards == devices
            state = programs.init()
            state, _ = programs.iterate(state)  # so that there are statistics to normalise with
            actor, transitions = programs.act(state.learner, state.actor)
            results = {"act": (actor, transitions), "measure": programs.measure(state.learner, transitions)}
            results["distil"] = programs.distil(copy(state.learner), transitions)
            results["learn"] = programs.learn(state.learner, transitions)
            found.append(jax.device_get(as_numbers(results)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("program", ["act", "learn", "measure", "distil"])
def test_a_program_on_two_devices_gives_what_it_gives_on_one(on_one_and_two_devices, program):
    one, two = (found[program] for found in on_one_and_two_devices)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two), strict=True):
        assert_allclose(a, b, rtol=2e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_a_sweep_of_hyper_parameters_compiles_once_and_changes_what_is_learned(fpo):
    state = fpo.init()
    results = []
    fpo.iterate(fpo.with_tunables(copy(state), Tunables.of(BASE)))
    compiled = fpo.learn._cache_size()
    for config in (
        BASE,
        replace(BASE, beta=0.5),
        replace(BASE, learning=replace(BASE.learning, learning_rate=1e-4)),
        replace(BASE, objective=replace(BASE.objective, clip_epsilon=0.3)),
    ):
        swept, _ = fpo.iterate(fpo.with_tunables(copy(state), Tunables.of(config)))
        results.append(np.asarray(jax.tree.leaves(swept.learner.params["policy"])[0]))
    assert fpo.learn._cache_size() == compiled
    for i, left in enumerate(results):
        assert all(np.abs(left - right).max() > 1e-7 for right in results[i + 1 :])


def test_programs_that_a_sweep_hands_from_arm_to_arm_stay_compiled(fpo):
    compiled = fpo.compile()
    assert compiled.compile() is compiled


def test_a_large_beta_distils_the_loss_on_the_policys_own_samples_goes_down(fpo):
    state = fpo.with_tunables(fpo.init(), Tunables.of(replace(BASE, beta=100.0)))
    losses = []
    for _ in range(15):
        state, metrics = fpo.iterate(state)
        losses.append(float(metrics["cfm_loss"][0]))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def learner_of(state, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], as_numbers(state))


@pytest.fixture(scope="module")
def two_seeds():
    """A programs of two seeds, one a device, and its state after two iterations."""
    programs = probe_programs(TINY, (3, 5))
    assert programs.layout.mesh.shape == {"seed": 2, "data": 1}
    state = programs.init()
    for _ in range(2):
        state, metrics = programs.iterate(state)
    return programs, state, metrics


@pytest.mark.slow
def test_a_seed_learns_the_same_bits_whatever_is_trained_beside_it(two_seeds):
    programs, state, _ = two_seeds
    swapped = programs.init_state(jnp.asarray((5, 3), jnp.uint32))
    for _ in range(2):
        swapped, _ = programs.iterate(swapped)
    assert_same_bits(learner_of(state, 0), learner_of(swapped, 1))
    assert_same_bits(learner_of(state, 1), learner_of(swapped, 0))
    kernels = [learner_of(state.learner.params["policy"], i)["params"]["input_kernel"] for i in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.slow
def test_two_seeds_in_one_program_are_those_trained_alone_to_rounding(two_seeds):
    alone = probe_programs(TINY, (5,))
    assert alone.layout.mesh.size == 1
    single = alone.init()
    for _ in range(2):
        single, _ = alone.iterate(single)
    pairs = zip(*(jax.tree.leaves(t) for t in (learner_of(two_seeds[1], 1), learner_of(single, 0))), strict=True)
    for a, b in pairs:
        assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # two compiled programs; measured 2e-9


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [False, True])
def test_eight_seeds_in_one_program_are_eight_runs(monkeypatch, vmapped):
    seeds, alone = tuple(range(8)), probe_programs(TINY, (0,))
    if vmapped:  # as accelerators have it
        monkeypatch.setattr(sharding.jax, "default_backend", lambda: "an accelerator")
    programs = probe_programs(TINY, seeds)
    monkeypatch.undo()
    together = programs.init()
    for _ in range(2):
        together, _ = programs.iterate(together)
    for seed in seeds:
        single = alone.init_state(np.asarray((seed,), np.uint32))
        for _ in range(2):
            single, _ = alone.iterate(single)
        pairs = zip(*(jax.tree.leaves(learner_of(*x)) for x in ((together, seed), (single, 0))), strict=True)
        for a, b in pairs:
            assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_advantages_computed_in_the_minibatch_keep_the_first_ratio_at_one(two_seeds):
    metrics = two_seeds[2]
    assert (metrics["first_ratio_error"] < 1e-5).all() and (metrics["skipped_updates"] == 0).all()
    assert (metrics["policy_gradient_norm"] > 0).all()


def test_one_seed_is_spread_over_devices_where_its_batch_divides():
    assert Layout.of(BASE, 1).mesh.shape == {"seed": 1, "data": 2}
    assert Layout.of(BASE, 4).mesh.shape == {"seed": 2, "data": 1}
    odd = replace(BASE, rollout=replace(BASE.rollout, num_envs=33, num_steps=128))
    assert Layout.of(odd, 1).mesh.shape == {"seed": 1, "data": 1}


def test_shards_hold_different_environments_and_the_same_learner(fpo):
    state, _ = fpo.iterate(fpo.init())
    noise = np.asarray(state.actor.base_noise)[0]
    assert len(np.unique(noise)) == 64  # no stream is used twice
    for leaf in jax.tree.leaves(state.learner.params):
        first, second = (np.asarray(s.data) for s in leaf.addressable_shards)
        assert_array_equal(first, second)


@pytest.mark.slow
def test_the_cosine_of_exact_likelihood_ppo_with_the_exact_policy_gradient_is_one():
    config = replace(of_objective("exact-ppo"), drift=DriftConfig(interval=1, num_samples=64))
    programs = probe_programs(config)
    state = programs.init()
    _, transitions = programs.act(state.learner, state.actor)
    metrics = programs.measure(state.learner, transitions)
    assert_allclose(metrics["drift/gradient_cosine"], 1.0, atol=1e-4)


def test_a_run_starts_from_its_own_policy_as_the_reference_where_one_is_needed():
    vrpo = probe_programs(of_objective("vrpo")).init().learner
    assert_same_bits(vrpo.reference, vrpo.params["policy"])
    assert probe_programs(of_objective("fpo")).init().learner.reference is None
