"""Probe environments: each asks one thing of a learner, and the right answer is a number known beforehand."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

PROBES = ("constant", "observation", "delayed", "action", "bimodal")
# A mode of the bimodal probe is an action within this of +-MODE.
MODE, HALF_WIDTH = 0.6, 0.1


class ProbesState(NamedTuple):
    obs: jax.Array  # (7,) which probe, one-hot; x; the step
    reward: jax.Array
    done: jax.Array
    side: jax.Array  # bimodal: where it was hit last, which no observation tells


class ProbesTask:
    """Five probes in one task, so that one program answers all; an episode is of one of them. x is +-1, a the action.

    - constant: reward 1 for ever. V = 1 / (1 - gamma), which a time limit must not change.
    - observation: reward x, then it ends. V = x.
    - delayed: reward 0, then 1, then it ends. V = gamma at first, then 1.
    - action: reward 1 - (a - x / 2)^2, then it ends. The best action is x / 2.
    - bimodal: reward 1 for hitting the mode that was not hit last. Which one that is cannot be seen, so a policy earns
      2 / (1/p + 1/q) a hit where p and q are its probabilities of the two modes: half of what it has in both.
    """

    action_size, observation_size, dt, mj_model = 1, len(PROBES) + 2, 0.02, None

    def reset(self, key: jax.Array) -> ProbesState:
        probe_key, x_key, side_key = jax.random.split(key, 3)
        probe = jax.nn.one_hot(jax.random.randint(probe_key, (), 0, len(PROBES)), len(PROBES))
        x, side = (2.0 * jax.random.bernoulli(k) - 1.0 for k in (x_key, side_key))
        obs = jnp.concatenate([probe, jnp.stack([x, 0.0])])
        return ProbesState(obs, jnp.zeros(()), jnp.zeros(()), side)

    def step(self, state: ProbesState, action: jax.Array) -> ProbesState:
        probe, (x, step), a = state.obs[: len(PROBES)], state.obs[len(PROBES) :], action[0]
        hit = jnp.abs(a + MODE * state.side) < HALF_WIDTH
        rewards = jnp.stack([1.0, x, step, 1.0 - jnp.square(a - 0.5 * x), hit.astype(jnp.float32)])
        ends = jnp.stack([0.0, 1.0, step, 1.0, 0.0])
        obs = state.obs.at[-1].set(jnp.where(probe[2] > 0, 1.0, 0.0))
        side = jnp.where((probe[4] > 0) & hit, -state.side, state.side)
        return ProbesState(obs, probe @ rewards, probe @ ends, side)


def observation(probe: str, x: float = 1.0, step: float = 0.0) -> jax.Array:
    """(7,) what the task shows."""
    return jnp.concatenate([jax.nn.one_hot(PROBES.index(probe), len(PROBES)), jnp.array([x, step])])


def bimodal_rate(actions: jax.Array) -> float:
    """Reward a step that these actions of a policy earn in the bimodal probe in the long run."""
    assert jnp.isfinite(actions).all()
    p, q = (float((jnp.abs(actions - mode) < HALF_WIDTH).mean()) for mode in (-MODE, MODE))
    return 2.0 * p * q / (p + q) if p + q > 0.0 else 0.0
