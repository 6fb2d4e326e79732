"""What an untrained policy earns when its noise is held for longer and longer."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.envs import BatchedEnv
from dipod_jax.training.rollout import correlated_noise


def untrained_returns(env: BatchedEnv, taus: Sequence[float], num_episodes: int) -> np.ndarray:
    """Returns of the squash of the base noise itself, which is what an untrained flow makes of it.

    The base noise is that of training: AR(1) with marginal N(0, I) and correlation exp(-dt / tau) between steps.

    Args:
        env: a task; an episode has its length, or ends where the task says so.
        taus: seconds, each >= 0; 0 is fresh noise in every step.
        num_episodes: of each tau, all at once.

    Returns:
        (taus, episodes).
    """
    correlations = [np.exp(-env.dt / tau) if tau > 0 else 0.0 for tau in taus]
    correlation = jnp.repeat(jnp.array(correlations), num_episodes)[:, None]

    def act(carry, key):
        state, noise, alive, total = carry
        noise = correlated_noise(key, noise, correlation)
        state, result = env.step(state, jnp.tanh(noise))
        return (state, noise, alive & ~result.terminated, total + alive * result.reward), None

    def episodes(key):
        reset_key, noise_key, scan_key = jax.random.split(key, 3)
        number = len(correlation)
        noise = jax.random.normal(noise_key, (number, env.action_size))
        start = env.reset(reset_key, number), noise, jnp.ones(number, bool), jnp.zeros(number)
        return jax.lax.scan(act, start, jax.random.split(scan_key, env.episode_length))[0][-1]

    return np.asarray(jax.jit(episodes)(jax.random.key(0))).reshape(len(taus), num_episodes)


def row(task: str, step_s: float, taus: Sequence[float], returns: np.ndarray) -> dict[str, str]:
    """A task's row of the table: mean and standard error for each tau."""
    means, errors = returns.mean(1), returns.std(1, ddof=1) / returns.shape[1] ** 0.5
    cells = {f"{tau:g} s": f"{mean:.3g} +- {error:.2g}" for tau, mean, error in zip(taus, means, errors, strict=True)}
    return {"task": task, "step": f"{step_s:g} s", **cells}
