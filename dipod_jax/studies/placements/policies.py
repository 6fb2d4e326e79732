"""The flow policies whose draws are placed, with actions of their own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax import envs
from dipod_jax.bounds import ConditionedVelocityFn, evaluation_times, integrate, time_grid
from dipod_jax.diagnostics.synthetic import fit_velocity, sample_target
from dipod_jax.envs import EnvState
from dipod_jax.studies.placements.options import Config
from dipod_jax.training.evaluation import make_act
from dipod_jax.training.loading import restore_policy
from dipod_jax.types import Params

BURN_IN = 100  # steps of every environment before the first state is taken


class OnPolicy(NamedTuple):
    """A velocity field and B of the actions that its sampler makes."""

    velocity_fn: ConditionedVelocityFn
    params: Params
    obs: jax.Array  # (B, O) as the network is given them
    action: jax.Array  # (B, d)
    times: jax.Array  # at which the sampler evaluates the field


def fitted(config: Config) -> OnPolicy:
    """A network fitted to a synthetic target, acting by ten Euler steps."""
    key_fit, key_noise = jax.random.split(jax.random.key(config.seed))
    target = lambda key: sample_target(key, 1024, target=config.target, std=0.3)
    velocity_fn, params = fit_velocity(key_fit, target, batch=1024, num_steps=config.fit_steps)
    obs, noise = jnp.zeros((config.batch, 1)), jax.random.normal(key_noise, (config.batch, 2))
    times = time_grid(10, kind="uniform")
    action = integrate(lambda x, t: velocity_fn(params, obs, x, t), noise, times, method="euler")
    return OnPolicy(velocity_fn, params, obs, action, evaluation_times(times, method="euler"))


def trained(config: Config, run: Path) -> OnPolicy:
    """A run's policy in states that it visits: the i-th of B environments at the i-th step after a burn-in."""
    found = restore_policy(run)
    policy, params, size = found.policy.field, found.params, config.batch
    assert policy is not None
    native = found.config.backend == "native"  # which an accelerator has not
    env = envs.make(found.config.task, "auto" if native else found.config.backend, num_worlds=size)
    act = make_act(found.policy, params, found.statistics)
    key_reset, key_act, key_noise = jax.random.split(jax.random.key(config.seed), 3)

    def step(state: EnvState, at: tuple[jax.Array, jax.Array]) -> tuple[EnvState, jax.Array]:
        key, row = at
        state, _ = env.step(state, act(state.obs, jax.random.normal(key, (size, *policy.noise_shape))))
        return state, state.obs[row]

    at = jax.random.split(key_act, BURN_IN + size), jnp.maximum(jnp.arange(BURN_IN + size) - BURN_IN, 0)
    visited = jax.jit(lambda state: jax.lax.scan(step, state, at)[1])(env.reset(key_reset, size))
    obs = found.statistics.normalise(visited[BURN_IN:])
    action, _ = policy.sample(params, obs, jax.random.normal(key_noise, (size, *policy.noise_shape)))
    return OnPolicy(policy.velocity, params, obs, action, evaluation_times(policy.times, method=policy.method))
