"""Evaluation: whole episodes with random base noise and with base noise 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.envs import BatchedEnv
from dipod_jax.policies import Policy
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Params


class EpisodeReturns(NamedTuple):
    """Undiscounted returns of E episodes of each kind."""

    random_noise: jax.Array  # (E,) base noise N(0, I), independent at every step
    zero_noise: jax.Array  # (E,) base noise 0: for a Gaussian policy, the mean action


class Episode(NamedTuple):
    """What a video needs of each step; leading axes (T, E)."""

    qpos: jax.Array
    mocap_pos: jax.Array
    mocap_quat: jax.Array
    reward: jax.Array


def evaluate(
    env: BatchedEnv,
    policy: Policy,
    params: Params,
    statistics: RunningStatistics,
    key: jax.Array,
    num_episodes: int,
) -> EpisodeReturns:
    """Returns of E episodes of `env.episode_length` steps of each kind, from fresh start states.

    No noise is added and nothing is clipped; the environment is given the tanh of the sampled action.
    """
    noise_shape = (2 * num_episodes, *policy.noise_shape)
    noise_scale = jnp.repeat(jnp.array([1.0, 0.0]), num_episodes).reshape(-1, *[1] * len(policy.noise_shape))
    act = make_act(policy, params, statistics)
    reset_key, scan_key = jax.random.split(key)

    def step(carry, key):
        state, alive, total = carry
        base_noise = noise_scale * jax.random.normal(key, noise_shape)
        state, result = env.step(state, act(state.obs, base_noise))
        total = total + alive * result.reward
        return (state, alive & ~result.terminated, total), None

    start = env.reset(reset_key, 2 * num_episodes, num_starts=1)
    initial = start, jnp.ones(2 * num_episodes, bool), jnp.zeros(2 * num_episodes)
    (_, _, total), _ = jax.lax.scan(step, initial, jax.random.split(scan_key, env.episode_length))
    return EpisodeReturns(total[:num_episodes], total[num_episodes:])


def record(
    env: BatchedEnv,
    policy: Policy,
    params: Params,
    statistics: RunningStatistics,
    key: jax.Array,
    num_episodes: int,
) -> Episode:
    """Act with random base noise for E episodes and keep what a video needs; after an episode's end its last state and
    no reward."""
    act = make_act(policy, params, statistics)
    reset_key, scan_key = jax.random.split(key)

    def look(state):
        data = state.physics.data
        return Episode(data.qpos, data.mocap_pos, data.mocap_quat, jnp.zeros(num_episodes))

    def step(carry, key):
        state, alive, seen = carry
        base_noise = jax.random.normal(key, (num_episodes, *policy.noise_shape))
        seen = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(alive, new, old), look(state), seen)
        state, result = env.step(state, act(state.obs, base_noise))
        return (state, alive & ~result.terminated, seen), seen._replace(reward=alive * result.reward)

    start = env.reset(reset_key, num_episodes, num_starts=1)
    initial = start, jnp.ones(num_episodes, bool), look(start)
    return jax.lax.scan(step, initial, jax.random.split(scan_key, env.episode_length))[1]


def make_act(
    policy: Policy, params: Params, statistics: RunningStatistics
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`act(obs, base_noise)`: raw observations (..., O) and base noise (..., *noise_shape) to what the environment is
    given, actions (..., d) in [-1, 1]. In single precision whatever the caller has chosen (see `PINNED`)."""

    @jax.default_matmul_precision("highest")
    def act(obs: jax.Array, noise: jax.Array) -> jax.Array:
        return policy.squash(policy.sample(params, statistics.normalise(obs), noise)[0])

    return act
