"""What an untrained policy earns when its noise is held for longer and longer."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.envs import BatchedEnv
from dipod_jax.presets import FALLING_STEPS
from dipod_jax.training.rollout import correlated_noise


def untrained_rewards(env: BatchedEnv, taus: Sequence[float], num_episodes: int) -> np.ndarray:
    """Rewards of the squash of the base noise itself, which is what an untrained flow makes of it.

    The base noise is that of training: AR(1) with marginal N(0, I) and correlation exp(-dt / tau) between steps.

    Args:
        env: a task; an episode has its T steps, or ends where the task says so and earns nothing from there on.
        taus: seconds, each >= 0; 0 is fresh noise in every step.
        num_episodes: of each tau, all at once.

    Returns:
        (T, taus, episodes).
    """
    correlations = [np.exp(-env.dt / tau) if tau > 0 else 0.0 for tau in taus]
    correlation = jnp.repeat(jnp.array(correlations), num_episodes)[:, None]

    def act(carry, key):
        state, noise, alive = carry
        noise = correlated_noise(key, noise, correlation)
        state, result = env.step(state, jnp.tanh(noise))
        return (state, noise, alive & ~result.terminated), alive * result.reward

    def episodes(key):
        reset_key, noise_key, scan_key = jax.random.split(key, 3)
        number = len(correlation)
        noise = jax.random.normal(noise_key, (number, env.action_size))
        start = env.reset(reset_key, number), noise, jnp.ones(number, bool)
        return jax.lax.scan(act, start, jax.random.split(scan_key, env.episode_length))[1]

    return np.asarray(jax.jit(episodes)(jax.random.key(0))).reshape(-1, len(taus), num_episodes)


def first_and_later(rewards: np.ndarray, later: int) -> tuple[float, float]:
    """The least reward of all first steps, and the mean reward after `later` steps (fewer if episodes are shorter)."""
    return float(rewards[0].min()), float(rewards[min(later, len(rewards) - 1)].mean())


def row(task: str, step_s: float, taus: Sequence[float], rewards: np.ndarray) -> dict[str, str]:
    """A task's row of the table: mean and standard error of the return for each tau, and what the first steps earn.

    Args:
        task: its name.
        step_s: seconds of a step.
        taus: seconds.
        rewards: (T, taus, episodes).
    """
    returns = rewards.sum(0)
    means, errors = returns.mean(1), returns.std(1, ddof=1) / returns.shape[1] ** 0.5
    cells = {f"{tau:g} s": f"{mean:.3g} +- {error:.2g}" for tau, mean, error in zip(taus, means, errors, strict=True)}
    first, later = first_and_later(rewards, FALLING_STEPS)
    early = {"first": f"{first:.2g}", f"step {FALLING_STEPS}": f"{later:.2g}"}
    return {"task": task, "step": f"{step_s:g} s", **cells, **early}
