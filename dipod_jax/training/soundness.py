"""Transitions that nothing can be learned from, because they hold non-finite or impossible numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Transition, is_measured

# An observation so many deviations (and units) off is no measurement but a simulation that explodes.
IMPLAUSIBLE = 1e5


def keep_sound(rollout: Transition, statistics: RunningStatistics) -> tuple[Transition, jax.Array]:
    """A rollout of finite numbers, and which of its transitions are to be learned from.

    A transition is sound where observations, action, trace and reward are numbers of at most 10^10, and the
    observations within 10^5 deviations of those before. In the others such numbers are replaced, observations by
    the mean, else by 0: whoever learns from the rollout gives them no weight. If no transition is sound, none is
    replaced and all are used, so that every update is skipped and counted.

    Args:
        rollout: (T, B, ...).
        statistics: those under which the policy acted.

    Returns:
        The rollout and a mask (T, B).
    """
    limit = IMPLAUSIBLE * jnp.maximum(statistics.std, 1.0)
    plausible = lambda obs: jnp.abs(obs - statistics.mean) <= limit  # False where it is nan
    parts = (rollout.action, rollout.trace, rollout.reward)
    bounded = jax.tree.map(is_measured, parts)
    fine = (plausible(rollout.obs), plausible(rollout.next_obs), *bounded)
    sound = jnp.ones(rollout.reward.shape, bool)
    for leaf in jax.tree.leaves(fine):
        sound &= leaf.all(range(sound.ndim, leaf.ndim))
    none = ~sound.any()
    keep = lambda x, ok, instead: jnp.where(ok | none, x, instead)
    action, trace, reward = jax.tree.map(lambda x, ok: keep(x, ok, jnp.zeros((), x.dtype)), parts, fine[2:])
    obs, next_obs = (
        keep(x, ok, statistics.mean) for x, ok in zip((rollout.obs, rollout.next_obs), fine[:2], strict=True)
    )
    replaced = rollout._replace(obs=obs, next_obs=next_obs, action=action, trace=trace, reward=reward)
    return replaced, sound | none


def without_gradient(tree, sound: jax.Array):
    """Leaves whose leading axes are those of the mask (...): the same numbers, those of unsound rows constant."""

    def freeze(x: jax.Array) -> jax.Array:
        mask = sound.reshape(*sound.shape, *[1] * (x.ndim - sound.ndim))
        return jnp.where(mask, x, jax.lax.stop_gradient(x))

    return jax.tree.map(freeze, tree)


def sound_first(sound: jax.Array) -> jax.Array:
    """(N,) positions of a mask (N,), the sound ones first and in order."""
    return jnp.argsort(~sound, stable=True)
