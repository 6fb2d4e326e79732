"""Options: what is allowed, what the presets say, and that a run folder gives back the config it was started with."""

import dataclasses
import json
import math

import pytest

from dipod_jax import presets
from dipod_jax.config import (
    TASKS,
    Config,
    DistillationConfig,
    DriftConfig,
    FpoConfig,
    LearningConfig,
    PolicyConfig,
    RolloutConfig,
    differences,
    from_json,
    to_json,
)


@pytest.mark.parametrize("objective", ["fpo", "exact-ppo", "ppo"])
@pytest.mark.parametrize("name", ["paper", "cpu", "smoke"])
def test_every_preset_constructs_for_every_task(name, objective):
    for task in TASKS:
        config = presets.PRESETS[name](task, objective)
        assert (config.task, config.objective, config.preset) == (task, objective, name)


def test_paper_preset_of_fpo_holds_the_numbers_of_the_fpo_code():
    c = presets.paper("CheetahRun", "fpo")
    assert (c.policy.num_steps, c.policy.num_draws, c.policy.time_embedding_size) == (10, 8, 8)
    assert (c.policy.hidden_sizes, c.policy.activation, c.policy.output_scale) == ((32,) * 4, "silu", 0.25)
    assert (c.policy.loss_form, c.policy.reduction, c.policy.draws) == ("eps", "mean", "grid")
    assert (c.policy.noise_correlation, c.policy.action_noise, c.policy.action_clip) == (0.0, 0.0, None)
    assert (c.critic.hidden_sizes, c.critic.activation) == ((256,) * 5, "silu")
    # the average over draws before the exponential, no bound on the log-ratio there, PPO's clip on both sides
    assert c.fpo == FpoConfig(clip_epsilon=0.05, ratio="average", negative_advantages="clip", log_ratio_clip=None)
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
    assert presets.paper(task, "fpo").learning.discount == gamma
    assert presets.paper(task, "ppo").learning.discount == gamma


def test_paper_preset_of_ppo_holds_the_tuned_numbers_of_appendix_a3():
    c = presets.paper("CheetahRun", "ppo")
    assert (c.learning.learning_rate, c.ppo.clip_epsilon, c.ppo.entropy_cost) == (3e-4, 0.1, 1e-2)
    assert (c.policy.hidden_sizes, c.critic.hidden_sizes, c.policy.activation) == ((32,) * 4, (256,) * 5, "silu")


@pytest.mark.parametrize(("task", "size", "gamma"), [("BallInCup", 8192, 0.98), ("FingerTurnHard", 32768, 0.995)])
def test_cpu_preset_takes_larger_rollouts_where_the_horizon_is_long(task, size, gamma):
    for objective in ("fpo", "ppo"):
        c = presets.cpu(task, objective)
        assert (c.steps_per_iteration, c.learning.discount) == (size, gamma)
        assert c.learning.learning_rate > (c.learning.final_learning_rate or 1.0)
    c = presets.cpu(task, "fpo")
    # one objective for both horizons: FPO++'s quadratic, and no gradient from a bad action whose loss is high
    assert c.fpo == FpoConfig(0.15, "average", "spo", log_ratio_clip=3.0, negative_loss_clamp=3.0)
    assert c.beta == 0.05


def test_smoke_preset_is_a_few_iterations_with_an_evaluation_between():
    c = presets.smoke("BallInCup", "fpo")
    assert c.num_iterations == 8  # 8192 env steps in iterations of 64 * 16
    assert c.evaluation.interval < c.total_steps


@pytest.mark.parametrize(
    ("found", "expected"),
    [(None, ("cpu", "native")), ("cuda", ("paper", "warp")), ("tpu", ("paper", "mjx"))],
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


@pytest.mark.parametrize("name", ["paper", "cpu", "smoke"])
def test_config_survives_json(name, tmp_path):
    config = dataclasses.replace(presets.PRESETS[name]("FishSwim", "ppo"), out=tmp_path, seed_list=(3, 1))
    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(json.loads(text)) == config


def test_config_json_of_another_version_is_refused_by_name():
    values = to_json(Config()) | {"warp_factor": 9}
    with pytest.raises(ValueError, match="does not know: warp_factor"):
        from_json(values)


def test_differences_name_options_as_the_command_line_does():
    a = Config()
    b = dataclasses.replace(a, beta=0.5, fpo=FpoConfig(clip_epsilon=0.1))
    assert differences(a, b) == {"beta": (0.0, 0.5), "fpo.clip-epsilon": (0.05, 0.1)}
    assert differences(a, a) == {}


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: Config(task="Fly"), "--task Fly"),
        (lambda: Config(beta=math.nan), "--beta nan"),
        (lambda: Config(beta=math.inf), "--beta inf"),
        (lambda: Config(beta=-1e-9), "--beta -1e-09"),
        (lambda: Config(beta="auto", objective="ppo"), "--beta auto"),
        (lambda: Config(beta=0.5, objective="ppo"), "--beta 0.5"),
        (lambda: Config(objective="foo"), "--objective foo"),  # pyright: ignore[reportArgumentType]
        (lambda: FpoConfig(negative_advantages="SPO"), "--fpo.negative-advantages SPO"),  # pyright: ignore
        (lambda: LearningConfig(advantages="once"), "--learning.advantages once"),  # pyright: ignore
        (lambda: PolicyConfig(draws="sobol"), "--policy.draws sobol"),  # pyright: ignore
        (lambda: DistillationConfig(target="noise"), "--distillation.target noise"),  # pyright: ignore
        (lambda: Config(beta="auto", drift=DriftConfig(interval=0)), "--beta auto"),
        (lambda: Config(objective="ppo", distillation=DistillationConfig(interval=1)), "--distillation.interval 1"),
        (
            lambda: Config(objective="ppo", distillation=DistillationConfig(initial_iterations=2)),
            "--distillation.initial-iterations 2",
        ),
        (lambda: FpoConfig(negative_advantages="spo"), "--fpo.negative-advantages spo"),
        (lambda: Config(seeds=0), "--seeds 0"),
        (lambda: Config(seed_list=()), "--seed-list"),
        (lambda: Config(seed_list=(1, 1)), "--seed-list 1 1"),
        (lambda: Config(seed_list=(-1,)), "--seed-list -1"),
        (lambda: Config(seed_list=(2**31,)), "--seed-list 2147483648"),
        (lambda: Config(total_steps=0), "--total-steps 0"),
        (lambda: Config(checkpoint_interval=-1.0), "--checkpoint-interval -1.0"),
        (lambda: Config(resume=True), "--resume True"),
        (lambda: FpoConfig(clip_epsilon=0.0), "--fpo.clip-epsilon 0.0"),
        (lambda: FpoConfig(log_ratio_clip=0.0), "--fpo.log-ratio-clip 0.0"),
        (lambda: FpoConfig(negative_loss_clamp=0.0), "--fpo.negative-loss-clamp 0.0"),
        (lambda: PolicyConfig(hidden_sizes=()), "--policy.hidden-sizes"),
        (lambda: PolicyConfig(num_steps=0), "--policy.num-steps 0"),
        (lambda: PolicyConfig(noise_correlation=1.0), "--policy.noise-correlation 1.0"),
        (lambda: PolicyConfig(noise_correlation=math.nan), "--policy.noise-correlation nan"),
        (lambda: PolicyConfig(time_embedding_size=7), "--policy.time-embedding-size 7"),
        (lambda: PolicyConfig(draws="antithetic", num_draws=3), "--policy.num-draws 3"),
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
        PolicyConfig(**options)


@pytest.mark.parametrize("option", [{"action_clip": 2.0}, {"action_noise": 0.1}])
def test_exact_likelihood_is_refused_for_actions_that_have_none(option):
    with pytest.raises(
        ValueError, match=r"--policy\.action-\w+ \S+ is not allowed: unset with the objective exact-ppo"
    ):
        Config(objective="exact-ppo", policy=PolicyConfig(**option))
