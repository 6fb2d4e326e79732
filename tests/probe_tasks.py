"""Tasks whose every number is known beforehand, with the interface that `BatchedEnv` asks of a Playground task."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ProbeState(NamedTuple):
    obs: jax.Array
    reward: jax.Array
    done: jax.Array


class CountingTask:
    """obs = (steps since reset, start + sum of actions); reward = action; done where the sum passes 10.

    Weakly typed at reset, as Playground's tasks are.
    """

    action_size, observation_size, dt, mj_model = 1, 2, 0.02, None

    def reset(self, key: jax.Array) -> ProbeState:
        start = jnp.round(jax.random.uniform(key), 3)
        return ProbeState(jnp.stack([jnp.zeros(()), start]), jnp.asarray(0.0), jnp.asarray(0.0))

    def step(self, state: ProbeState, action: jax.Array) -> ProbeState:
        steps, position = state.obs
        position = position + action[0]
        return ProbeState(jnp.stack([steps + 1, position]), action[0], (position > 10).astype(jnp.float32))


class TargetTask:
    """Reward 1 - |action - .5|^2 whatever the state: the best return of T steps is T, of action 0 it is .75 T."""

    action_size, observation_size, dt, mj_model = 1, 2, 0.02, None
    target = 0.5

    def reset(self, key: jax.Array) -> ProbeState:
        return ProbeState(jax.random.normal(key, (2,)), jnp.zeros(()), jnp.zeros(()))

    def step(self, state: ProbeState, action: jax.Array) -> ProbeState:
        return ProbeState(state.obs, 1.0 - jnp.square(action - self.target).sum(), jnp.zeros(()))
