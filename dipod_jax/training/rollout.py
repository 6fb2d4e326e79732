"""Acting: one scan over environment steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.config import PolicyConfig
from dipod_jax.envs import BatchedEnv
from dipod_jax.policies import Policy
from dipod_jax.training.state import ActorState, LearnerState, Transitions


def correlated_noise(key: jax.Array, last: jax.Array, correlation: float) -> jax.Array:
    """The next base noise of an AR(1) process with marginal N(0, I): rho x + sqrt(1 - rho^2) xi.

    Args:
        key: consumed.
        last: (..., d) this step's noise, itself N(0, I).
        correlation: rho in [0, 1).
    """
    fresh = jax.random.normal(key, last.shape)
    return correlation * last + jnp.sqrt(1.0 - correlation**2) * fresh


def rollout(
    env: BatchedEnv,
    policy: Policy,
    config: PolicyConfig,
    learner: LearnerState,
    actor: ActorState,
    key: jax.Array,
    num_steps: int,
) -> tuple[ActorState, Transitions]:
    """Act for T = `num_steps` steps in B environments with frozen parameters and observation statistics.

    The stored action is the sampler's end point, clipped to +-`action_clip` and perturbed by `action_noise` where the
    config says so; the environment is given its tanh.

    Returns:
        The actor state and Transitions (T, B, ...).
    """
    params, statistics = learner.params["policy"], learner.obs_statistics
    env_key, scan_key = jax.random.split(key)
    actor = actor._replace(env=env.refresh(actor.env, env_key))

    def step(actor: ActorState, key: jax.Array) -> tuple[ActorState, Transitions]:
        noise_key, action_key = jax.random.split(key)
        obs = actor.env.obs
        base_noise = correlated_noise(noise_key, actor.base_noise, config.noise_correlation)
        action = policy.act(params, statistics.normalise(obs), base_noise)
        if config.action_clip is not None:
            action = jnp.clip(action, -config.action_clip, config.action_clip)
        if config.action_noise > 0:
            action = action + config.action_noise * jax.random.normal(action_key, action.shape)
        env_state, result = env.step(actor.env, jnp.tanh(action))
        stored = Transitions(
            obs=obs,
            next_obs=result.next_obs,
            base_noise=base_noise,
            action=action,
            reward=result.reward,
            terminated=result.terminated,
            truncated=result.truncated,
            episode_return=result.episode_return,
            episode_length=result.episode_length,
        )
        return ActorState(env_state, base_noise), stored

    return jax.lax.scan(step, actor, jax.random.split(scan_key, num_steps))
