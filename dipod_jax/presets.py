"""The presets: which defaults a run starts from. Every number of `paper` is the FPO code's or the FPO paper's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dipod_jax.config import (
    Backend,
    Config,
    CriticConfig,
    DriftConfig,
    EvaluationConfig,
    FpoConfig,
    LearningConfig,
    ObjectiveName,
    PolicyConfig,
    PpoConfig,
    Preset,
    RolloutConfig,
)

# Tasks on which the FPO paper (table A.2) and Playground's PPO settings take gamma = .95 instead of .995; `cpu` .98.
SHORT_HORIZON_TASKS = ("BallInCup", "FingerSpin")


def paper(task: str, objective: ObjectiveName) -> Config:
    """FPO's hyper-parameters (methods of arXiv 2507.21053 and its code); for `ppo` its tuned PPO (appendix A.3)."""
    discount = 0.95 if task in SHORT_HORIZON_TASKS else 0.995
    return Config(
        task=task,
        objective=objective,
        preset="paper",
        fpo=FpoConfig(clip_epsilon=0.05),
        ppo=PpoConfig(clip_epsilon=0.1, entropy_cost=1e-2),
        learning=LearningConfig(learning_rate=3e-4, discount=discount),
    )


def cpu(task: str, objective: ObjectiveName) -> Config:
    """A recipe that learns in minutes on two cores, one for each horizon (docs/recipe.md)."""
    fpo = objective == "fpo"
    short_horizon = Config(
        task=task,
        objective=objective,
        preset="cpu",
        beta=0.05 if fpo else 0.0,
        total_steps=1_500_000 if task == "BallInCup" else 4_000_000,
        # Without the clamp, long runs end in a runaway of the bound's tail, which opens on bad actions.
        fpo=FpoConfig(clip_epsilon=0.15, negative_advantages="spo", log_ratio_clip=3.0, negative_loss_clamp=3.0),
        ppo=PpoConfig(clip_epsilon=0.2, entropy_cost=1e-2),
        # A clipped or perturbed action has no density under a flow; the CFM loss takes it as any other.
        policy=PolicyConfig(
            hidden_sizes=(64, 64, 64, 64),
            sampler="midpoint",
            num_steps=5,
            num_draws=2,
            draws="stratified",
            noise_correlation=0.8,
            action_clip=3.0 if fpo else None,
            action_noise=0.2 if fpo else 0.0,
        ),
        critic=CriticConfig(hidden_sizes=(128, 128, 128)),
        rollout=RolloutConfig(num_envs=256, num_steps=32, episode_length=250, stagger=True),
        learning=LearningConfig(
            learning_rate=1.5e-3,
            final_learning_rate=1e-4,
            minibatch_size=1024,
            unroll_length=32,
            num_epochs=4,
            advantages="iteration",
            discount=0.98,
            advantage_clip=5.0,
            policy_gradient_clip=1.0,
        ),
        evaluation=EvaluationConfig(num_episodes=128, num_episodes_during=32, interval=250_000),
        drift=DriftConfig(interval=20),
    )
    return short_horizon if task in SHORT_HORIZON_TASKS else _over_a_long_horizon(short_horizon)


def _over_a_long_horizon(c: Config) -> Config:
    """A longer discount, larger rollouts, more epochs and draws, a lower rate, advantages that follow the critic.

    Over a long horizon a small rollout's advantages are mostly noise, and an update that follows noise drifts.
    """
    return replace(
        c,
        total_steps=9_000_000,
        policy=replace(c.policy, num_draws=4),
        rollout=replace(c.rollout, num_envs=512, num_steps=64),
        drift=replace(c.drift, interval=4),
        # Episodes of the Turn tasks are all or nothing: fewer say little.
        evaluation=replace(c.evaluation, num_episodes_during=64, interval=500_000),
        learning=replace(
            c.learning,
            learning_rate=1e-3,
            minibatch_size=2048,
            num_epochs=8,
            advantages="minibatch",
            discount=0.995,
        ),
    )


def smoke(task: str, objective: ObjectiveName) -> Config:
    """Every part of a run at its smallest: for trying an installation, not for learning."""
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
    """Which accelerator JAX would use, told without importing it: "cuda", "tpu" or None."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms.split(",")[0] == "cpu":
        return None
    from importlib.util import find_spec

    if Path("/dev/nvidia0").exists() and (find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin")):
        return "cuda"
    return "tpu" if Path("/dev/accel0").exists() and find_spec("libtpu") else None


def choose(preset: Preset, backend: Backend) -> tuple[str, Backend, str | None]:
    """Resolve `auto`: the preset, the backend, and one line saying what was chosen and why (None: nothing was)."""
    device = accelerator()
    on_cpu = device is None or backend == "native"
    chosen_preset = preset if preset != "auto" else "cpu" if on_cpu else "paper"
    chosen_backend: Backend = backend
    if backend == "auto":
        chosen_backend = "warp" if device == "cuda" else "mjx" if device == "tpu" else "native"
    if preset != "auto" and backend != "auto":
        return chosen_preset, chosen_backend, None
    why = f"found {device}" if device else "found no accelerator"
    return chosen_preset, chosen_backend, f"auto: preset {chosen_preset}, backend {chosen_backend} ({why})"


def make_config(
    preset: Preset, task: str, objective: ObjectiveName, backend: Backend = "auto"
) -> tuple[Config, str | None]:
    """The config a run starts from, with `auto` resolved, and the line that says so."""
    chosen, physics, line = choose(preset, backend)
    return replace(PRESETS[chosen](task, objective), backend=physics), line
