"""The presets: the defaults that a run starts from. Every number in `paper` comes from the FPO code or the FPO paper.

An objective's changes to a preset are in its own file (`Objective.presets`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dipod_jax.bounds import EVALUATIONS_PER_STEP
from dipod_jax.checks import check_choice
from dipod_jax.config import Backend, Config, DriftConfig, EvaluationConfig, LearningConfig, Preset, RolloutConfig
from dipod_jax.envs.tasks import check_found
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import override
from dipod_jax.policies import POLICIES
from dipod_jax.policies.critic import CriticOptions

# Tasks on which the FPO paper (table A.2) and Playground's PPO settings take gamma = .95 instead of .995; `cpu` .98.
SHORT_HORIZON_TASKS = ("BallInCup", "FingerSpin")
# Tasks on which `cpu` holds noise for half a second and episodes for ten: one motor has to pump energy in for seconds.
# The rule behind the names, which a test holds them to: one motor, a control step of .01 s or less, and hardly any
# reward at the start. Where all is well at the start, as on Cartpole's balancing tasks, held noise only tips it over
# (`dipod heldnoise`, docs/hard_tasks.md).
SWING_UP_TASKS = ("AcrobotSwingup", "AcrobotSwingupSparse", "CartpoleSwingup", "CartpoleSwingupSparse")
# Tasks whose training episodes end with a fall, and the reward that says so: an untrained policy falls within a second
# and does not get up, and would lie on the ground for the rest of the episode. The rule behind the names, which a test
# holds them to: reward of .1 or more in the first step of every start, less than a fiftieth of that in the mean after
# `FALLING_STEPS` (`dipod heldnoise`); and behind the numbers: a little under half of the former.
FALLING_TASKS = {"HumanoidStand": 0.4, "HumanoidWalk": 0.07, "HumanoidRun": 0.07}
FALLING_STEPS = 50
# Tasks on which a flow of `cpu` begins at the velocity of N(0, I). An untrained field leaves the bound open by 1.1 nats
# a dimension, and training hardly closes it: on 21 dimensions HumanoidStand then stays where it is after 1M env steps.
# The rule behind the names, which a test holds them to: more than six motors (docs/hard_tasks.md).
MANY_MOTORS_TASKS = ("HumanoidStand", "HumanoidWalk", "HumanoidRun")
# Of a flow policy: those of these that another family has as well, it takes too.
CPU_POLICY = {
    "hidden_sizes": (64, 64, 64, 64),
    "sampler": "midpoint",
    "num_steps": 5,
    "num_draws": 2,
    "draws": "stratified",
    "action_clip": 3.0,
    "action_noise": 0.2,
    # FPO's .05 is for 60M env steps: a step's score has a variance of 1 / std^2 (docs/log/recipe.md).
    "step_noise": 0.5,
}


def _start(preset: Preset, task: str, objective: str, policy: Mapping[str, Any], **values: Any) -> Config:
    """A config with the objective's default options, and those options of `policy` that its family has."""
    cls = OBJECTIVES.choose(objective)
    family = POLICIES[cls.policy]
    # A clipped or perturbed action has no density under a flow; a bound takes it as any other.
    left_out = {"action_clip", "action_noise"} if cls.exact_action else set()
    names = {f.name for f in dataclasses.fields(family)} - left_out
    kept = {name: value for name, value in policy.items() if name in names}
    if "sampler" in kept and kept["sampler"] not in family.samplers:
        evaluations = EVALUATIONS_PER_STEP[kept["sampler"]] * kept["num_steps"]
        kept |= {"sampler": "euler", "num_steps": evaluations}  # at the same cost
    options = family(**{**kept, **cls.policy_defaults})
    return Config(cls(), options, task=task, preset=preset, **values)


def paper(task: str, objective: str) -> Config:
    """FPO's hyper-parameters (methods of arXiv 2507.21053 and its code); for `ppo` its tuned PPO (appendix A.3)."""
    discount = 0.95 if task in SHORT_HORIZON_TASKS else 0.995
    learning = LearningConfig(learning_rate=3e-4, discount=discount)
    return _start("paper", task, objective, {}, learning=learning)


def cpu(task: str, objective: str) -> Config:
    """A recipe that learns in minutes on two cores, one for each horizon (docs/recipe.md)."""
    correlation, episode_length = (0.98, 1000) if task in SWING_UP_TASKS else (0.8, 250)
    base_velocity = "gaussian" if task in MANY_MOTORS_TASKS else "zero"
    short_horizon = _start(
        "cpu",
        task,
        objective,
        CPU_POLICY | {"noise_correlation": correlation, "base_velocity": base_velocity},
        total_steps=1_500_000 if task == "BallInCup" else 4_000_000,
        critic=CriticOptions(hidden_sizes=(128, 128, 128)),
        rollout=RolloutConfig(
            num_envs=256,
            num_steps=32,
            episode_length=episode_length,
            terminate_below=FALLING_TASKS.get(task),
            stagger=True,
        ),
        learning=LearningConfig(
            learning_rate=1.5e-3,
            final_learning_rate=1e-4,
            minibatch_size=1024,
            unroll_length=32,
            num_epochs=4,
            advantages="iteration",
            discount=0.98,
            gae_lambda=0.8,
            advantage_clip=5.0,
            policy_gradient_clip=1.0,
        ),
        evaluation=EvaluationConfig(num_episodes=128, num_episodes_during=32, interval=250_000),
        drift=DriftConfig(interval=20),
    )
    return short_horizon if task in SHORT_HORIZON_TASKS else _over_a_long_horizon(short_horizon)


def _over_a_long_horizon(c: Config) -> Config:
    """A longer horizon: a larger discount, larger rollouts, more epochs, a lower rate, advantages that follow the
    critic.

    Over a long horizon a small rollout's advantages are mostly noise, and an update that follows noise drifts.
    """
    return replace(
        c,
        total_steps=9_000_000,
        rollout=replace(c.rollout, num_envs=512, num_steps=64),
        drift=replace(c.drift, interval=4),
        # Episodes of the Turn tasks are all or nothing: fewer say little.
        evaluation=replace(c.evaluation, num_episodes_during=64, interval=500_000),
        learning=replace(
            c.learning,
            learning_rate=1e-3,
            num_epochs=8,
            advantages="minibatch",
            discount=0.99,
            critic_second_moment_decay=0.9,
        ),
    )


def smoke(task: str, objective: str) -> Config:
    """Every part of a run at its smallest, to try out an installation; it does not learn."""
    base = cpu(task, objective)
    return replace(
        base,
        preset="smoke",
        total_steps=8192,
        rollout=replace(base.rollout, num_envs=64, num_steps=16),
        learning=replace(base.learning, minibatch_size=512, unroll_length=8, num_epochs=2),
        evaluation=EvaluationConfig(num_episodes=8, num_episodes_during=4, interval=4096),
        drift=replace(base.drift, interval=4, num_samples=64),
    )


PRESETS = {"paper": paper, "cpu": cpu, "smoke": smoke}


def accelerator() -> str | None:
    """The accelerator that JAX would use, found without importing it: "cuda", "tpu" or None."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    if platforms.split(",")[0] == "cpu":
        return None
    from importlib.util import find_spec

    seen = visible != "" and not visible.startswith("-")  # CUDA stops at the first number that is no device's
    if seen and Path("/dev/nvidia0").exists() and (find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin")):
        return "cuda"
    return "tpu" if Path("/dev/accel0").exists() and find_spec("libtpu") else None


def check_backend(backend: Backend) -> None:
    """Raise ValueError if the backend's device is missing."""
    if backend == "warp" and accelerator() != "cuda":
        raise ValueError("--backend warp is not allowed: it needs CUDA and none was found; use native or mjx")


def choose(preset: Preset, backend: Backend) -> tuple[str, Backend, str | None]:
    """Resolve `auto`: the preset, the backend, and one line saying what was chosen and why (None: nothing was)."""
    device = accelerator()
    on_cpu = device is None or backend == "native"
    chosen_preset = preset if preset != "auto" else "cpu" if on_cpu else "paper"
    # At the size of `paper` mjx was 5 % faster on one card, Warp 7 % on another: docs/benchmarks.md.
    chosen_backend: Backend = backend if backend != "auto" else "native" if device is None else "mjx"
    if preset != "auto" and backend != "auto":
        return chosen_preset, chosen_backend, None
    why = f"found {device}" if device else "found no accelerator"
    return chosen_preset, chosen_backend, f"auto: preset {chosen_preset}, backend {chosen_backend} ({why})"


def make_config(preset: Preset, task: str, objective: str, backend: Backend = "auto") -> tuple[Config, str | None]:
    """The config a run starts from, with `auto` resolved and the objective's own defaults, and the line that says so.

    Raises:
        ValueError: one line: an unknown task, preset or objective.
    """
    check_choice("preset", preset, ("auto", *PRESETS))
    check_found(task)
    chosen, physics, line = choose(preset, backend)
    changes = OBJECTIVES.choose(objective).presets.get("cpu" if chosen == "smoke" else chosen, {})
    return replace(override(PRESETS[chosen](task, objective), changes), backend=physics), line
