"""The trainer on a task whose optimum is known, and its invariants: ratios, shards, seeds, sweeps, failures."""

import json
import shutil
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal
from probe_tasks import CountingTask, TargetTask

from dipod_jax import envs
from dipod_jax.config import (
    Config,
    CriticConfig,
    DistillationConfig,
    DriftConfig,
    EvaluationConfig,
    FpoConfig,
    LearningConfig,
    PolicyConfig,
    RolloutConfig,
    to_json,
)
from dipod_jax.envs import BatchedEnv
from dipod_jax.objectives import make_objective
from dipod_jax.policies import GaussianPolicy
from dipod_jax.runs import CheckpointError, RunFolder
from dipod_jax.training import loop
from dipod_jax.training import trainer as trainer_module
from dipod_jax.training.evaluation import evaluate
from dipod_jax.training.learner import Learner, _segments, _summarise, learning_rate, where_known
from dipod_jax.training.loop import Run
from dipod_jax.training.state import Tunables
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.training.trainer import Trainer

EPISODE = 10
LEARN = dict(learning_rate=3e-3, minibatch_size=128, num_epochs=4, advantages="iteration", reward_scale=1.0)
BASE = Config(
    backend="native",
    preset="smoke",
    fpo=FpoConfig(clip_epsilon=0.05, negative_advantages="spo", log_ratio_clip=3.0),
    policy=PolicyConfig(hidden_sizes=(16, 16), num_steps=4, num_draws=4, action_clip=1.5),
    critic=CriticConfig(hidden_sizes=(16,)),
    rollout=RolloutConfig(num_envs=64, num_steps=8, episode_length=EPISODE, stagger=True),
    learning=LearningConfig(**LEARN, discount=0.9, policy_gradient_clip=1.0),
    evaluation=EvaluationConfig(num_episodes=6, num_episodes_during=4),
    drift=DriftConfig(interval=0),
)
# Too small to be spread over devices; advantages as in the FPO code.
TINY = replace(
    BASE,
    rollout=replace(BASE.rollout, num_envs=16),
    learning=replace(BASE.learning, advantages="minibatch", unroll_length=4, minibatch_size=64),
)


def make_trainer(config=BASE, seeds=(0,)):
    """A trainer of `TargetTask`, whatever the config's task is called."""
    with pytest.MonkeyPatch.context() as patch:
        make = lambda task, backend, *, episode_length: BatchedEnv(TargetTask(), episode_length)
        patch.setattr(envs, "make", make)
        patch.setattr(trainer_module, "EVALUATION_EPISODE_LENGTH", EPISODE)
        return Trainer(config, seeds)


def copy(tree):
    return jax.tree.map(lambda x: x.copy(), tree)


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        left, right = (jax.random.key_data(x) if is_key(x) else x for x in (left, right))
        assert_array_equal(left, right)


def unclipped(objective):
    """BASE for an objective on likelihoods, which a clipped action has none of."""
    return replace(BASE, objective=objective, policy=replace(BASE.policy, action_clip=None))


@pytest.fixture(scope="module")
def fpo():
    return make_trainer()


@pytest.fixture(scope="module", params=["fpo", "exact-ppo", "ppo"])
def trained(request, fpo):
    """Trainer, evaluation before, state, metrics of every iteration, evaluation after."""
    trainer = fpo if request.param == "fpo" else make_trainer(unclipped(request.param))
    state = trainer.init()
    before = trainer.evaluate(state.learner, 64)
    history = []
    for _ in range(100):
        state, metrics = trainer.iterate(state)
        history.append({name: float(value[0]) for name, value in jax.device_get(metrics).items()})
    return trainer, before, state, history, trainer.evaluate(state.learner, 64)


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
    trainer, _, state, history, _ = trained
    assert state.learner.obs_statistics.count[0] == len(history) * trainer.config.steps_per_iteration
    assert_array_equal(state.learner.iteration, [len(history)])


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
    action = jax.jit(fpo.policy.act)(
        params, transitions.obs, transitions.base_noise
    )  # nothing seen, nothing normalised
    assert_allclose(transitions.action, np.clip(action, -1.5, 1.5), atol=1e-5)
    assert 0.01 < (np.abs(transitions.action) == 1.5).mean() < 0.9
    # and the environment was given its tanh
    assert_allclose(transitions.reward, 1 - np.square(np.tanh(transitions.action[..., 0]) - 0.5), atol=1e-5)


def test_an_evaluation_is_reproducible_and_leaves_training_as_it_was(fpo):
    state = fpo.init()
    silent, _ = fpo.iterate(copy(state))
    first = fpo.evaluate(state.learner, 6)
    second = fpo.evaluate(state.learner, 6)
    assert_same_bits(first, second)
    assert_same_bits(fpo.iterate(state)[0], silent)
    assert first.random_noise.shape == first.zero_noise.shape == (1, 6)


def test_evaluation_episodes_are_independent_of_each_other_and_of_their_number(fpo):
    learner = fpo.init().learner
    many = fpo.evaluate(learner, 10)
    assert_same_bits(fpo.evaluate(learner, 3), jax.tree.map(lambda x: x[:, :3], many))
    assert len(np.unique(many.random_noise)) == 10
    # another iteration draws other noise
    later = fpo.evaluate(learner._replace(iteration=learner.iteration + 1), 10)
    assert not np.isin(later.random_noise, many.random_noise).any()


class ShiftPolicy:
    """a = base noise + atanh(.5): with base noise 0 the best action of `TargetTask`."""

    action_size = 1

    def act(self, params, obs, base_noise):
        return base_noise + jnp.arctanh(0.5)


def test_evaluation_returns_of_a_known_policy():
    run = lambda key: evaluate(BatchedEnv(TargetTask(), 20), ShiftPolicy(), None, RunningStatistics.zeros(2), key, 400)
    returns = jax.jit(run)(jax.random.key(0))
    assert_allclose(returns.zero_noise, 20.0, rtol=1e-6)
    # E[1 - (tanh(z + atanh .5) - .5)^2] under N(0, 1), by quadrature
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    mean = np.trapezoid(density * (1 - (np.tanh(z + np.arctanh(0.5)) - 0.5) ** 2), z)
    # a reward's deviation is about .6: the standard error over 8000 is .007
    assert_allclose(returns.random_noise.mean() / 20, mean, atol=0.03)


def test_evaluation_counts_the_first_episode_only():
    class Full(ShiftPolicy):
        def act(self, params, obs, base_noise):
            return jnp.full_like(base_noise, 20.0)  # tanh: 1

    run = lambda key: evaluate(BatchedEnv(CountingTask(), 25), Full(), None, RunningStatistics.zeros(2), key, 4)
    returns = jax.jit(run)(jax.random.key(0))
    assert_array_equal(returns.random_noise, [10.0] * 4)  # starts in (0, 1): past 10, and done, at the tenth step


def test_a_sweep_of_hyper_parameters_compiles_once_and_changes_what_is_learned(fpo):
    state = fpo.init()
    results = []
    fpo.iterate(fpo.with_tunables(copy(state), Tunables.of(BASE)))
    compiled = fpo.learn._cache_size()
    for config in (
        BASE,
        replace(BASE, beta=0.5),
        replace(BASE, learning=replace(BASE.learning, learning_rate=1e-4)),
        replace(BASE, fpo=replace(BASE.fpo, clip_epsilon=0.3)),
    ):
        swept, _ = fpo.iterate(fpo.with_tunables(copy(state), Tunables.of(config)))
        results.append(np.asarray(jax.tree.leaves(swept.learner.params["policy"])[0]))
    assert fpo.learn._cache_size() == compiled
    for i, left in enumerate(results):
        assert all(np.abs(left - right).max() > 1e-7 for right in results[i + 1 :])


def test_a_large_beta_distils_the_loss_on_the_policys_own_samples_goes_down(fpo):
    state = fpo.with_tunables(fpo.init(), Tunables.of(replace(BASE, beta=100.0)))
    losses = []
    for _ in range(15):
        state, metrics = fpo.iterate(state)
        losses.append(float(metrics["cfm_loss"][0]))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def learner_of(state, index):
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x)[index], state)


@pytest.fixture(scope="module")
def two_seeds():
    """A trainer of two seeds, one a device, and its state after two iterations."""
    trainer = make_trainer(TINY, (3, 5))
    assert trainer.mesh.shape == {"seed": 2, "data": 1}
    state = trainer.init()
    for _ in range(2):
        state, metrics = trainer.iterate(state)
    return trainer, state, metrics


def test_a_seed_learns_the_same_bits_whatever_is_trained_beside_it(two_seeds):
    trainer, state, _ = two_seeds
    swapped = trainer._init(jnp.asarray((5, 3), jnp.uint32))
    for _ in range(2):
        swapped, _ = trainer.iterate(swapped)
    assert_same_bits(learner_of(state, 0), learner_of(swapped, 1))
    assert_same_bits(learner_of(state, 1), learner_of(swapped, 0))
    kernels = [learner_of(state.learner.params["policy"], i)["params"]["input_kernel"] for i in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.slow
def test_two_seeds_in_one_program_are_those_trained_alone_to_rounding(two_seeds):
    alone = make_trainer(TINY, (5,))
    assert alone.mesh.size == 1
    single = alone.init()
    for _ in range(2):
        single, _ = alone.iterate(single)
    pairs = zip(*(jax.tree.leaves(t) for t in (learner_of(two_seeds[1], 1), learner_of(single, 0))), strict=True)
    for a, b in pairs:
        assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # two compiled programs; measured 2e-9


def test_advantages_computed_in_the_minibatch_keep_the_first_ratio_at_one(two_seeds):
    metrics = two_seeds[2]
    assert (metrics["first_ratio_error"] < 1e-5).all() and (metrics["skipped_updates"] == 0).all()
    assert (metrics["policy_gradient_norm"] > 0).all()


def test_one_seed_is_spread_over_devices_where_its_batch_divides():
    assert trainer_module.make_mesh(1, BASE).shape == {"seed": 1, "data": 2}
    assert trainer_module.make_mesh(4, BASE).shape == {"seed": 2, "data": 1}
    odd = replace(BASE, rollout=replace(BASE.rollout, num_envs=33, num_steps=128))
    assert trainer_module.make_mesh(1, odd).shape == {"seed": 1, "data": 1}


def test_shards_hold_different_environments_and_the_same_learner(fpo):
    state, _ = fpo.iterate(fpo.init())
    noise = np.asarray(state.actor.base_noise)[0]
    assert len(np.unique(noise)) == 64  # no stream is used twice
    for leaf in jax.tree.leaves(state.learner.params):
        first, second = (np.asarray(s.data) for s in leaf.addressable_shards)
        assert_array_equal(first, second)


@pytest.fixture(scope="module")
def gaussian(fpo):
    """The learner of a Gaussian policy, its state, and a rollout (T, B) = (8, 64) to learn from, all of one device."""
    state = fpo.init()
    _, transitions = fpo.act(state.learner, state.actor)
    learner, transitions = (jax.tree.map(lambda x: x[0], jax.device_get(x)) for x in (state.learner, transitions))
    policy = GaussianPolicy(BASE.policy, 2, 1)

    def make(axis_name=None, shards=1, **options):
        config = replace(BASE, objective="ppo", learning=replace(BASE.learning, **options))
        return Learner(config, policy, fpo.critic, make_objective(config), axis_name, shards)

    params = {**learner.params, "policy": jax.device_get(jax.jit(policy.init)(jax.random.key(0)))}
    return make, learner._replace(params=params, optimizer=make().init_optimizer(params)), transitions


WHOLE = dict(minibatch_size=512, num_epochs=1, policy_gradient_clip=None)  # one gradient step on everything


@pytest.fixture(scope="module")
def one_step(gaussian):
    return jax.jit(gaussian[0](**WHOLE).update)


def test_gradients_of_two_shards_average_to_that_of_the_whole_batch(gaussian, one_step):
    make, learner, transitions = gaussian
    assert learner.tunables.entropy_cost == 0.0  # the entropy draws noise, other noise on a shard
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        make("data", 2, **WHOLE).update,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "data"), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    key = jax.random.key(0)
    one, one_metrics = one_step(learner, transitions, key)
    two, two_metrics = jax.jit(sharded)(learner, transitions, key)
    # after one step from zero, Adam's first moment is a tenth of the gradient
    for name in ("policy", "critic"):
        for a, b in zip(*(jax.tree.leaves(s.optimizer[name].mu) for s in (one, two)), strict=True):
            assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    for a, b in zip(one.obs_statistics, two.obs_statistics, strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    averaged = ("clip_fraction", "first_ratio_error", "policy_gradient_norm")
    for name in ("reward", "episodes", "policy_loss", "value_loss", "negative_log_prob", *averaged):
        assert_allclose(one_metrics[name], two_metrics[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field", ["reward", "action"])
def test_a_non_finite_gradient_skips_its_update_and_is_counted(gaussian, one_step, field):
    _, state, transitions = gaussian
    value = np.array(getattr(transitions, field))
    value[3, 7] = np.nan
    after, metrics = one_step(state, transitions._replace(**{field: value}), jax.random.key(0))
    assert metrics["skipped_updates"] == 1.0
    assert_same_bits((after.params, after.optimizer), (state.params, state.optimizer))
    good, metrics = one_step(state, transitions, jax.random.key(0))
    assert metrics["skipped_updates"] == 0.0 and good.optimizer["policy"].count == 1
    # the observations were sound, and are learned from
    assert_same_bits(after.obs_statistics, good.obs_statistics)


def test_the_learning_rate_falls_linearly_to_its_last_value(gaussian):
    state = gaussian[1]
    tunables = state.tunables._replace(
        learning_rate=jnp.float32(1.0), final_learning_rate=jnp.float32(0.2), num_iterations=jnp.float32(5.0)
    )
    rates = [float(learning_rate(state._replace(tunables=tunables, iteration=jnp.int32(i)))) for i in (0, 1, 2, 4, 9)]
    assert_allclose(rates, [1.0, 0.8, 0.6, 0.2, 0.2], rtol=1e-6)
    constant = Tunables.of(BASE)
    assert constant.learning_rate == constant.final_learning_rate


def test_segments_hold_consecutive_steps_of_one_environment():
    rollout = jnp.arange(6)[:, None] * 10 + jnp.arange(2)  # entry 10 t + b
    columns = np.asarray(_segments(rollout, 3)).T
    assert {tuple(c) for c in columns} == {(0, 10, 20), (1, 11, 21), (30, 40, 50), (31, 41, 51)}


def test_a_policy_is_distilled_before_it_learns_from_the_actions_and_statistics_it_acted_with(
    fpo, tmp_path, monkeypatch
):
    config = replace(BASE, out=tmp_path / "run", logger="none", distillation=DistillationConfig(interval=2))
    run = Run(config, 0.0)
    run.trainer, run.state = fpo, fpo.init()
    seen = []

    def keep(learner, transitions):
        on_policy = fpo.policy.act(
            jax.tree.map(lambda x: x[0], learner.params["policy"]),
            jax.tree.map(lambda x: x[0], learner.obs_statistics).normalise(transitions.obs[0]),
            transitions.base_noise[0],
        )
        seen.append((int(learner.iteration[0]), np.asarray(on_policy), np.asarray(transitions.action[0])))
        return learner

    monkeypatch.setattr(fpo, "distil", keep)
    for iteration in range(4):
        run.iteration = iteration
        run._advance()
    assert [at for at, _, _ in seen] == [1, 3]  # the learner's own count, one behind had it learned before
    for _, on_policy, stored in seen:
        assert_allclose(np.clip(on_policy, -1.5, 1.5), stored, atol=1e-5)


def test_means_over_an_iteration_leave_skipped_steps_out():
    taken = jnp.array([[True, False], [True, True]])
    values = jnp.array([[1.0, jnp.nan], [2.0, 6.0]])
    assert _summarise("policy_gradient_norm", values, taken) == 3.0
    assert jnp.isnan(_summarise("policy_loss", values, jnp.zeros((2, 2), bool)))
    assert _summarise("skipped_updates", 1.0 - taken, taken) == 1.0


def test_phases_of_initial_distillation_draw_different_noise(fpo, tmp_path, monkeypatch):
    config = replace(BASE, out=tmp_path / "run", logger="none", distillation=DistillationConfig(initial_iterations=2))
    run = Run(config, 0.0)
    run.trainer, run.state = fpo, fpo.init()
    key = np.asarray(jax.random.key_data(run.state.learner.key))
    noise, learners = [], []

    def keep(learner, transitions):
        noise.append(np.asarray(transitions.base_noise))
        learners.append(np.asarray(jax.random.key_data(learner.key)))
        return learner

    monkeypatch.setattr(fpo, "distil", keep)
    stop = threading.Event()
    run._distil_initially(stop)
    noise.append(np.asarray(fpo.act(run.state.learner, run.state.actor)[1].base_noise))  # the first iteration
    assert len(np.unique(noise)) == np.size(noise) == 3 * 8 * 64
    assert not np.array_equal(*learners)
    assert_array_equal(jax.random.key_data(run.state.learner.key), key)
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        run._distil_initially(stop)
    assert len(learners) == 2  # none after the stop


@pytest.fixture
def train_again(fpo, tmp_path, monkeypatch):
    """`train` on the shared programs, with pictures left out; returns the records it leaves, without the clock."""
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)
    monkeypatch.setattr(fpo, "_compiled", True)
    size = BASE.steps_per_iteration
    config = replace(BASE, out=tmp_path / "run", logger="none", total_steps=3 * size, checkpoint_interval=0.0)

    def run(**options):
        loop.train(replace(config, **options), trainer=fpo)
        return [{k: v for k, v in r.items() if k[-2:] != "_s"} for r in RunFolder.open(config.out).read_metrics()]

    return config, run


def test_a_run_killed_before_its_first_checkpoint_starts_again_without_double_lines(train_again):
    config, run = train_again
    folder = RunFolder.create(config.out, to_json(config))
    head = {"kind": "evaluation", "seed": 0, "iteration": 0, "env_steps": 0, "wall_clock_s": 1.0}
    folder.append_metrics({**head, "return_mean": 1.0})
    folder.close()
    records = run(resume=True)
    lines = [(r["kind"], r["iteration"]) for r in records]
    assert lines == [("evaluation", 0), ("train", 1), ("train", 2), ("train", 3), ("evaluation", 3)]
    assert json.loads((config.out / "metrics-1.jsonl").read_text())["return_mean"] == 1.0  # what it had is kept


def test_a_finished_run_whose_checkpoint_is_unreadable_loses_nothing_to_resume(train_again):
    config, run = train_again
    run()
    files = {path: path.read_bytes() for path in config.out.glob("*.json*")}
    for checkpoint in (config.out / "checkpoints").iterdir():
        (checkpoint / "leaves.json").write_text("")
    with pytest.raises(CheckpointError, match=r"leaves\.json is damaged .* delete that folder"):
        run(resume=True, total_steps=4 * config.steps_per_iteration)
    assert files == {path: path.read_bytes() for path in config.out.glob("*.json*")}


def test_resuming_a_finished_run_keeps_its_result_or_writes_it_again_and_no_double_lines(train_again):
    config, run = train_again
    records, result = run(), RunFolder.open(config.out).read_result()
    assert run(resume=True) == records and RunFolder.open(config.out).read_result() == result
    (config.out / "result.json").unlink()
    assert run(resume=True) == records
    again = RunFolder.open(config.out).read_result()
    for name in ("final_return", "final_return_zero_noise", "env_steps", "evaluation_return"):
        assert again[name] == result[name]


def test_a_resumed_run_may_go_further_than_it_was_meant_to(train_again):
    config, run = train_again
    size = config.steps_per_iteration
    long = run()
    shutil.rmtree(config.out)
    run(total_steps=2 * size)
    train = lambda records: [r for r in records if r["kind"] == "train"]
    assert train(run(total_steps=3 * size, resume=True)) == train(long)
    results = {json.loads(path.read_text())["env_steps"] for path in config.out.glob("result*.json")}
    assert results == {2 * size, 3 * size}  # that of the shorter run is kept under another name
    assert RunFolder.open(config.out).read_result()["env_steps"] == 3 * size


def test_a_sample_of_unknown_likelihood_changes_neither_ratio_nor_gradient():
    old = jnp.array([[1.0], [jnp.nan], [2.0], [3.0]])
    advantage = jnp.array([1.0, 5.0, -5.0, -1.0])
    objective = make_objective(unclipped("exact-ppo"))

    def loss(new):
        new, known_old, known = where_known(new, old)
        return objective(new, known_old, advantage, clip_epsilon=0.1), known

    (_, known), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.array([[1.0], [1.0], [jnp.nan], [3.0]]))
    assert_array_equal(known[:, 0], [True, False, False, True])
    # at ratio 1 the gradient in the loss is A / B
    assert_allclose(gradient[:, 0], [0.25, 0.0, 0.0, -0.25])


def test_the_cosine_of_exact_likelihood_ppo_with_the_exact_policy_gradient_is_one():
    config = replace(unclipped("exact-ppo"), drift=DriftConfig(interval=1, num_samples=64))
    trainer = make_trainer(config)
    state = trainer.init()
    _, transitions = trainer.act(state.learner, state.actor)
    metrics = trainer.measure(state.learner, transitions)
    assert_allclose(metrics["drift/gradient_cosine"], 1.0, atol=1e-4)
