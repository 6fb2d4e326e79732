"""Acting: one scan over environment steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.envs import BatchedEnv
from dipod_jax.policies import Policy, PolicyOptions
from dipod_jax.training.state import ActorState, LearnerState
from dipod_jax.types import Transition


def correlated_noise(key: jax.Array, last: jax.Array, correlation: float | jax.Array) -> jax.Array:
    """The next base noise of an AR(1) process with marginal N(0, I): rho x + sqrt(1 - rho^2) xi.

    Args:
        key: consumed.
        last: (..., d) this step's noise, itself N(0, I).
        correlation: rho in [0, 1), broadcast against `last`.
    """
    fresh = jax.random.normal(key, last.shape)
    return correlation * last + jnp.sqrt(1.0 - correlation**2) * fresh


def rollout(
    env: BatchedEnv,
    policy: Policy,
    options: PolicyOptions,
    learner: LearnerState,
    actor: ActorState,
    key: jax.Array,
    num_steps: int,
) -> tuple[ActorState, Transition]:
    """Act for T = `num_steps` steps in B environments with frozen parameters and observation statistics.

    The stored action is the sampler's end point as the options explore around it (`PolicyOptions.explore`); the
    environment is given its squash.

    Returns:
        The actor state and transitions (T, B, ...).
    """
    params, statistics = learner.params["policy"], learner.obs_statistics
    env_key, scan_key = jax.random.split(key)
    actor = actor._replace(env=env.refresh(actor.env, env_key))

    def step(actor: ActorState, key: jax.Array) -> tuple[ActorState, Transition]:
        noise_key, action_key = jax.random.split(key)
        obs = actor.env.obs
        base_noise = correlated_noise(noise_key, actor.base_noise, options.noise_correlation)
        action, trace = policy.sample(params, statistics.normalise(obs), base_noise)
        action = options.explore(action_key, action)
        env_state, result = env.step(actor.env, policy.squash(action))
        stored = Transition(
            obs=obs,
            next_obs=result.next_obs,
            action=action,
            trace=trace,
            reward=result.reward,
            terminated=result.terminated,
            truncated=result.truncated,
            episode_return=result.episode_return,
            episode_length=result.episode_length,
        )
        return ActorState(env_state, base_noise), stored

    return jax.lax.scan(step, actor, jax.random.split(scan_key, num_steps))
