"""Options: what is allowed, what the presets say, and that a run folder gives back the config it was started with."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest

from dipod_jax import envs, presets
from dipod_jax.config import (
    TASKS,
    Config,
    DistillationConfig,
    DriftConfig,
    LearningConfig,
    RolloutConfig,
    differences,
)
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.ppo import ExactPpo, Ppo
from dipod_jax.policies.exact_flow import ExactFlowOptions
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.gaussian import GaussianOptions
from dipod_jax.regularisers.entropy import Entropy
from dipod_jax.serialisation import from_json, to_json
from dipod_jax.studies.held_noise import first_and_later, untrained_rewards


@pytest.mark.parametrize("objective", ["fpo", "exact-ppo", "ppo"])
@pytest.mark.parametrize("name", ["paper", "cpu", "smoke"])
def test_every_preset_constructs_for_every_task(name, objective):
    for task in TASKS:
        config = presets.make_config(name, task, objective, "native")[0]
        assert (config.task, config.objective.name, config.preset) == (task, objective, name)


def test_paper_preset_of_fpo_holds_the_numbers_of_the_fpo_code():
    c = presets.make_config("paper", "CheetahRun", "fpo")[0]
    assert (c.policy.num_steps, c.policy.num_draws, c.policy.time_embedding_size) == (10, 8, 8)
    assert (c.policy.hidden_sizes, c.policy.activation, c.policy.output_scale) == ((32,) * 4, "silu", 0.25)
    assert (c.policy.loss_form, c.policy.reduction, c.policy.draws) == ("eps", "mean", "grid")
    assert (c.policy.noise_correlation, c.policy.action_noise, c.policy.action_clip) == (0.0, 0.0, None)
    assert (c.critic.hidden_sizes, c.critic.activation) == ((256,) * 5, "silu")
    # the average over draws before the exponential, no bound on the log-ratio there, PPO's clip on both sides
    assert c.objective == Fpo(clip_epsilon=0.05, ratio="average", negative_advantages="clip", log_ratio_clip=None)
    learning = c.learning
    assert (learning.learning_rate, learning.final_learning_rate, learning.discount) == (3e-4, None, 0.995)
    assert (learning.gae_lambda, learning.reward_scale, learning.value_coefficient) == (0.95, 10.0, 0.25)
    assert (learning.unroll_length, learning.num_epochs, learning.advantages) == (30, 16, "minibatch")
    assert (learning.policy_gradient_clip, learning.critic_gradient_clip, learning.advantage_clip) == (None,) * 3
    # 1024 sequences of 30 steps a minibatch, 32 minibatches an epoch, 2048 environments
    assert learning.minibatch_size == 1024 * 30 and c.rollout.num_envs == 2048
    assert c.steps_per_iteration == 32 * learning.minibatch_size
    assert (c.rollout.episode_length, c.rollout.stagger, c.total_steps) == (1000, False, 60_000_000)
    assert c.evaluation.num_episodes == 128 and c.beta == 0.0


@pytest.mark.parametrize(("task", "gamma"), [("BallInCup", 0.95), ("FingerSpin", 0.95), ("FingerTurnEasy", 0.995)])
def test_paper_preset_shortens_the_horizon_on_the_two_tasks_of_table_a2(task, gamma):
    assert presets.make_config("paper", task, "fpo")[0].learning.discount == gamma
    assert presets.make_config("paper", task, "ppo")[0].learning.discount == gamma


def test_paper_preset_of_ppo_holds_the_tuned_numbers_of_appendix_a3():
    c = presets.make_config("paper", "CheetahRun", "ppo")[0]
    assert (c.learning.learning_rate, c.objective, c.regularisers.entropy) == (3e-4, Ppo(0.1), Entropy(1e-2))
    assert (c.policy.hidden_sizes, c.critic.hidden_sizes, c.policy.activation) == ((32,) * 4, (256,) * 5, "silu")


@pytest.mark.parametrize(("task", "size", "gamma"), [("BallInCup", 8192, 0.98), ("FingerTurnHard", 32768, 0.99)])
def test_cpu_preset_takes_larger_rollouts_where_the_horizon_is_long(task, size, gamma):
    for objective in ("fpo", "ppo"):
        c = presets.make_config("cpu", task, objective)[0]
        assert (c.steps_per_iteration, c.learning.discount) == (size, gamma)
        assert c.learning.learning_rate > (c.learning.final_learning_rate or 1.0)
        # a critic that learns from targets of its own takes no step that is larger than the rate
        follows = c.learning.advantages == "minibatch"
        assert follows == (size == 32768) and c.learning.critic_second_moment_decay == (0.9 if follows else 0.999)
    c = presets.make_config("cpu", task, "fpo")[0]
    # one objective for both horizons: FPO++'s quadratic, and no gradient from a bad action whose loss is high
    assert c.objective == Fpo(0.15, "average", "spo", log_ratio_clip=3.0, negative_loss_clamp=3.0)
    assert c.beta == 0.05


@pytest.mark.parametrize(
    ("task", "correlation", "steps"),
    [
        ("BallInCup", 0.8, 250),
        ("CheetahRun", 0.8, 250),
        ("CartpoleBalance", 0.8, 250),
        ("CartpoleSwingupSparse", 0.98, 1000),
        ("AcrobotSwingup", 0.98, 1000),
    ],
)
def test_cpu_preset_holds_noise_and_episodes_for_longer_where_something_is_swung_up(task, correlation, steps):
    for objective in ("fpo", "ppo"):
        c = presets.cpu(task, objective)
        assert (c.policy.noise_correlation, c.rollout.episode_length) == (correlation, steps)


def test_cpu_preset_ends_a_training_episode_with_the_fall_of_a_humanoid_and_begins_its_flow_at_a_gaussian():
    humanoid, walker = presets.cpu("HumanoidWalk", "fpo"), presets.cpu("WalkerWalk", "fpo")
    assert (humanoid.rollout.terminate_below, walker.rollout.terminate_below) == (0.07, None)
    assert (humanoid.policy.base_velocity, walker.policy.base_velocity) == ("gaussian", "zero")
    assert presets.cpu("HumanoidWalk", "ppo").rollout.terminate_below == 0.07


def test_smoke_preset_is_a_few_iterations_with_an_evaluation_between():
    c = presets.make_config("smoke", "BallInCup", "fpo")[0]
    assert c.num_iterations == 8  # 8192 env steps in iterations of 64 * 16
    assert c.evaluation.interval < c.total_steps


@pytest.mark.parametrize(
    ("found", "expected"),
    [(None, ("cpu", "native")), ("cuda", ("paper", "mjx")), ("tpu", ("paper", "mjx"))],
)
def test_auto_follows_the_accelerator_and_says_what_it_found(monkeypatch, found, expected):
    monkeypatch.setattr(presets, "accelerator", lambda: found)
    config, line = presets.make_config("auto", "BallInCup", "fpo")
    assert (config.preset, config.backend) == expected
    assert "\n" not in line and all(word in line for word in (*expected, found or "no accelerator"))
    explicit, silence = presets.make_config("smoke", "BallInCup", "ppo", "mjx")
    assert (explicit.preset, explicit.backend, silence) == ("smoke", "mjx", None)


def test_no_accelerator_is_seen_where_jax_is_told_to_stay_on_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert presets.accelerator() is None


@pytest.mark.parametrize(
    ("visible", "found"), [(None, "cuda"), ("0", "cuda"), ("1,0", "cuda"), ("", None), (" ", None), ("-1", None)]
)
def test_a_gpu_that_the_environment_hides_is_not_found(monkeypatch, visible, found):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(presets.Path, "exists", lambda path: str(path) == "/dev/nvidia0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "jax_cuda13_plugin")
    assert presets.accelerator() == found


@pytest.mark.parametrize("objective", ["fpo", "exact-ppo", "ppo"])
@pytest.mark.parametrize("name", ["paper", "cpu", "smoke"])
def test_config_survives_json(name, objective, tmp_path):
    config = dataclasses.replace(presets.make_config(name, "FishSwim", objective)[0], out=tmp_path, seed_list=(3, 1))
    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(json.loads(text)) == config


def test_config_json_of_another_version_is_refused_by_name():
    values = to_json(Config()) | {"warp_factor": 9}
    with pytest.raises(ValueError, match=r"holds unknown options \(warp_factor\)"):
        from_json(values)
    with pytest.raises(ValueError, match="has version 3, this is version 2"):
        from_json(values | {"version": 3})


def leaves(values, path=()):
    """Paths to every value of nested JSON objects, groups included."""
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


@pytest.mark.parametrize("path", [p for p in leaves(to_json(Config())) if p[0] != "version"], ids=".".join)
def test_a_missing_option_is_refused_and_never_defaulted(path):
    values = to_json(Config())
    group = values
    for name in path[:-1]:
        group = group[name]
    del group[path[-1]]
    with pytest.raises(ValueError, match="start a new run, or read it with the version that wrote it"):
        from_json(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("beta", {}),
        ("beta", True),
        ("rollout", 3),
        ("rollout.num_envs", "8"),
        ("rollout.num_envs", 8.0),
        ("rollout.stagger", 1),
        ("policy.hidden_sizes", [[8]]),
        ("policy.hidden_sizes", 8),
        ("policy.sampler", "rk4"),
        ("objective.name", "nope"),
        ("objective.name", ["fpo"]),
        ("policy.name", "gaussian"),
        ("seed_list", [1.5]),
        ("task", None),
        ("regularisers", []),
    ],
)
def test_a_value_of_another_type_is_one_line(path, value):
    values = to_json(Config())
    group = values
    *parents, last = path.split(".")
    for name in parents:
        group = group[name]
    group[last] = value
    with pytest.raises(ValueError) as refused:
        from_json(values)
    named = re.split("[._]", path)
    assert "\n" not in str(refused.value) and any(word in str(refused.value) for word in named)


def test_an_option_that_came_later_is_written_where_it_differs_from_what_runs_before_it_had():
    """So that folders from before are read as what they are, and the runs of their sweeps keep their names."""
    earlier = Config()
    later = dataclasses.replace(earlier, policy=dataclasses.replace(earlier.policy, base_velocity="gaussian"))
    assert "base_velocity" not in to_json(earlier)["policy"] and from_json(to_json(earlier)) == earlier
    assert to_json(later)["policy"]["base_velocity"] == "gaussian" and from_json(to_json(later)) == later
    later = dataclasses.replace(earlier, learning=dataclasses.replace(earlier.learning, critic_second_moment_decay=0.9))
    assert "critic_second_moment_decay" not in to_json(earlier)["learning"]
    assert to_json(later)["learning"]["critic_second_moment_decay"] == 0.9 and from_json(to_json(later)) == later


def test_a_regulariser_that_a_folder_does_not_name_was_off():
    values = to_json(presets.make_config("cpu", "FishSwim", "ppo", "native")[0])
    assert values["regularisers"] == {"entropy": {"name": "entropy", "weight": 0.01}}
    assert from_json(values | {"regularisers": {}}).regularisers.entropy == Entropy(0.0)


def test_differences_name_options_as_the_command_line_does():
    a = Config()
    b = dataclasses.replace(a, beta=0.5, objective=Fpo(clip_epsilon=0.1))
    assert differences(a, b) == {"beta": (0.0, 0.5), "objective.clip-epsilon": (0.05, 0.1)}
    ppo = Config(Ppo(0.05), GaussianOptions())
    assert differences(a, ppo) == {"objective": ("fpo", "ppo"), "policy": ("flow", "gaussian")}
    assert differences(a, a) == {}


def gaussian(**values):
    return Config(Ppo(), GaussianOptions(), **values)


def entropy(weight):
    return dataclasses.replace(Config().regularisers, entropy=Entropy(weight))


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: Config(task="Fly"), "--task Fly"),
        (lambda: Config(beta=math.nan), "--beta nan"),
        (lambda: Config(beta=math.inf), "--beta inf"),
        (lambda: Config(beta=-1e-9), "--beta -1e-09"),
        (lambda: gaussian(beta="auto"), "--beta auto"),
        (lambda: gaussian(beta=0.5), "--beta 0.5"),
        (lambda: presets.make_config("cpu", "BallInCup", "foo"), "--objective foo"),
        (lambda: Config(policy=GaussianOptions()), "--policy gaussian"),
        (lambda: Config(regularisers=entropy(0.1)), "--regularisers.entropy.weight 0.1"),
        (lambda: Config(regularisers=entropy(-0.1)), "--regularisers.entropy.weight -0.1"),
        (lambda: Config(objective=Fpo(negative_advantages="SPO")), "--objective.negative-advantages SPO"),  # pyright: ignore
        (lambda: LearningConfig(advantages="once"), "--learning.advantages once"),  # pyright: ignore
        (lambda: Config(policy=FlowOptions(draws="sobol")), "--policy.draws sobol"),  # pyright: ignore
        (lambda: DistillationConfig(target="noise"), "--distillation.target noise"),  # pyright: ignore
        (lambda: Config(beta="auto", drift=DriftConfig(interval=0)), "--beta auto"),
        (lambda: gaussian(distillation=DistillationConfig(interval=1)), "--distillation.interval 1"),
        (
            lambda: gaussian(distillation=DistillationConfig(initial_iterations=2)),
            "--distillation.initial-iterations 2",
        ),
        (lambda: Config(objective=Fpo(negative_advantages="spo")), "--objective.negative-advantages spo"),
        (lambda: Config(seeds=0), "--seeds 0"),
        (lambda: Config(seed_list=()), "--seed-list"),
        (lambda: Config(seed_list=(1, 1)), "--seed-list 1 1"),
        (lambda: Config(seed_list=(-1,)), "--seed-list -1"),
        (lambda: Config(seed_list=(2**31,)), "--seed-list 2147483648"),
        (lambda: Config(total_steps=0), "--total-steps 0"),
        (lambda: Config(checkpoint_interval=-1.0), "--checkpoint-interval -1.0"),
        (lambda: Config(resume=True), "--resume True"),
        (lambda: Config(objective=Fpo(clip_epsilon=0.0)), "--objective.clip-epsilon 0.0"),
        (lambda: Config(objective=Fpo(log_ratio_clip=0.0)), "--objective.log-ratio-clip 0.0"),
        (lambda: Config(objective=Fpo(negative_loss_clamp=0.0)), "--objective.negative-loss-clamp 0.0"),
        (lambda: Config(policy=FlowOptions(hidden_sizes=())), "--policy.hidden-sizes"),
        (lambda: Config(policy=FlowOptions(num_steps=0)), "--policy.num-steps 0"),
        (lambda: Config(policy=FlowOptions(noise_correlation=1.0)), "--policy.noise-correlation 1.0"),
        (lambda: Config(policy=FlowOptions(noise_correlation=math.nan)), "--policy.noise-correlation nan"),
        (lambda: Config(policy=FlowOptions(time_embedding_size=7)), "--policy.time-embedding-size 7"),
        (lambda: Config(policy=FlowOptions(draws="antithetic", num_draws=3)), "--policy.num-draws 3"),
        (lambda: RolloutConfig(num_envs=0), "--rollout.num-envs 0"),
        (lambda: LearningConfig(discount=1.1), "--learning.discount 1.1"),
        (lambda: LearningConfig(learning_rate=0.0), "--learning.learning-rate 0.0"),
        (lambda: LearningConfig(policy_gradient_clip=-1.0), "--learning.policy-gradient-clip -1.0"),
        (
            lambda: Config(
                rollout=RolloutConfig(num_envs=3, num_steps=5),
                learning=LearningConfig(minibatch_size=15, advantages="iteration"),
            ),
            "--drift.interval 25",
        ),
        (lambda: Config(rollout=RolloutConfig(num_envs=7)), "--learning.minibatch-size 30720"),
        (lambda: Config(rollout=RolloutConfig(num_steps=32, num_envs=960)), "--learning.unroll-length 30"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_flag_and_what_is_allowed(make, flag):
    with pytest.raises(ValueError) as refused:
        make()
    message = str(refused.value)
    assert message.startswith(flag) and " is not allowed: " in message and "\n" not in message


def test_a_minibatch_must_hold_whole_segments_where_advantages_are_computed_in_it():
    rollout = RolloutConfig(num_envs=8, num_steps=30)
    with pytest.raises(ValueError, match="minibatch-size 80 is not allowed: a multiple of"):
        Config(rollout=rollout, learning=LearningConfig(minibatch_size=80))
    Config(rollout=rollout, learning=LearningConfig(minibatch_size=80, advantages="iteration"))


def test_iterations_are_rounded_up_to_whole_ones():
    c = Config(
        total_steps=241,
        rollout=RolloutConfig(num_envs=8, num_steps=30),
        learning=LearningConfig(minibatch_size=240),
    )
    assert (c.steps_per_iteration, c.num_iterations, c.planned_steps) == (240, 2, 480)
    assert Config(seeds=3).all_seeds == (0, 1, 2) and Config(seeds=3, seed_list=(7,)).all_seeds == (7,)


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"elbo_cutoff": 1.0}, "--policy.elbo-cutoff 1.0"), ({"loss_form": "elbo"}, "--policy.draws grid")],
)
def test_the_elbo_form_needs_a_cutoff_and_times_off_the_grid(options, flag):
    with pytest.raises(ValueError, match=flag):
        Config(policy=FlowOptions(**options))


@pytest.mark.parametrize("option", [{"action_clip": 2.0}, {"action_noise": 0.1}])
def test_exact_likelihood_is_refused_for_actions_that_have_none(option):
    with pytest.raises(
        ValueError, match=r"--policy\.action-\w+ \S+ is not allowed: unset where the objective asks for an exact"
    ):
        Config(ExactPpo(), ExactFlowOptions(**option))


@pytest.mark.slow
def test_the_tasks_whose_noise_is_held_for_long_are_those_that_a_rule_finds():
    """One motor, a control step of .01 s or less, and under .5 of reward in the first step (docs/hard_tasks.md)."""

    def is_swung_up(name):
        env = envs.make(name, "native")
        if env.action_size > 1 or env.dt > 0.01:
            return False
        first = lambda key: env.step(env.reset(key, 64), jnp.zeros((64, 1)))[1].reward
        return float(jax.jit(first)(jax.random.key(0)).mean()) < 0.5

    assert {name for name in TASKS if is_swung_up(name)} == set(presets.SWING_UP_TASKS)


@pytest.mark.slow
def test_the_tasks_of_a_gaussian_base_velocity_are_those_of_many_motors():
    assert {name for name in TASKS if envs.make(name, "native").action_size > 6} == set(presets.MANY_MOTORS_TASKS)


@pytest.mark.slow
def test_the_tasks_whose_episodes_end_with_a_fall_are_those_that_a_rule_finds():
    """Reward of .1 in the first step of every start, under a fiftieth of it in the mean after 50 steps; half of the
    former is a fall."""
    steps, begins_with = presets.FALLING_STEPS, {}

    def falls(name):
        env = envs.make(name, "native", episode_length=steps + 1)
        first, later = first_and_later(untrained_rewards(env, [0.0, 0.09, 0.2], 64), steps)
        begins_with[name] = first
        return first >= 0.1 and later < first / 50

    assert {name for name in TASKS if falls(name)} == set(presets.FALLING_TASKS)
    assert all(0.4 < fallen / begins_with[name] < 0.5 for name, fallen in presets.FALLING_TASKS.items())
