"""Many copies of one task in lock-step. Time limits, auto-reset and failed simulations are handled here only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dipod_jax.types import is_key, is_measured

# One start state is kept ready for every eight environments: enough for every reset between two `refresh` calls when
# episodes are 250 steps and rollouts 32, and cheap where a reset is expensive (CheetahRun settles for 200 substeps).
ENVS_PER_START = 8


class EnvState(NamedTuple):
    """State of B environments; a pytree of arrays only."""

    physics: Any  # Playground states, leading axis (B,)
    starts: Any  # start states that auto-reset draws from, leading axis (P,)
    clock: jax.Array  # (B,) int32, steps until now on the time limit's clock
    length: jax.Array  # (B,) int32, steps of the running episode
    episode_return: jax.Array  # (B,) float32, undiscounted return of the running episode
    num_failures: jax.Array  # (B,) int32, simulations that left the numbers up to 10^10, since the first reset
    key: jax.Array  # (B,) keys, one stream per environment

    @property
    def obs(self) -> jax.Array:
        """(B, O) observation to act on."""
        return self.physics.obs


class StepResult(NamedTuple):
    """What one step of B environments returns; all arrays have leading axis (B,)."""

    reward: jax.Array  # float32; 0 where the simulation failed
    next_obs: jax.Array  # (B, O), the true next observation, before any auto-reset
    terminated: jax.Array  # bool, the task ended, or the simulation failed; nothing follows
    truncated: jax.Array  # bool, the time limit cut the episode; the value continues
    episode_return: jax.Array  # return of the episode that ended in this step, else 0
    episode_length: jax.Array  # its length in steps, else 0


def _select(mask: jax.Array, on_true: Any, on_false: Any) -> Any:
    """Choose leaf by leaf along the leading axis; works for typed keys too."""
    pick = lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)
    return jax.tree.map(pick, on_true, on_false)


def _strong(tree: Any) -> Any:
    """Strip weak types, so that a jitted scan over the state is traced and compiled once."""
    strip = lambda x: x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)
    return jax.tree.map(lambda x: strip(jnp.asarray(x)), tree)


class BatchedEnv:
    """A task with `reset(key)` and `step(state, action)` per environment, batched, with time limit and auto-reset.

    Both methods are pure and can be jitted, scanned, mapped over seeds and sharded along B. An episode ends `truncated`
    after `episode_length` steps, or `terminated` when the task says so, when the reward is under `terminate_below`, or
    when the simulation or its action is no longer finite, or over 10^10; the environment then continues from a start
    state drawn from `state.starts`. A failed simulation yields reward 0 and its last measured observation, is counted
    in `num_failures`, and touches no other environment.

    Args:
        task: one environment with `reset(key)` and `step(state, action)` as in Playground, and the attributes read
            below.
        episode_length: steps, >= 1.
        terminate_below: a reward under which an episode ends `terminated`, with that reward; None: never.
        mesh: devices over whose `axis` the environments are spread. Arrays hold the whole batch (global view); only the
            physics runs per device, under `jax.shard_map`. Every random stream belongs to an environment, so results do
            not depend on the number of devices.
        axis: name of the mesh axis.
    """

    def __init__(
        self,
        task: Any,
        episode_length: int,
        mesh: Mesh | None = None,
        axis: str = "data",
        *,
        terminate_below: float | None = None,
    ):
        self._mesh = mesh if mesh is not None and mesh.shape[axis] > 1 else None
        self._axis = axis
        self._task = task
        self.episode_length = episode_length
        self._terminate_below = terminate_below
        self.action_size = int(task.action_size)
        self.observation_size = int(jax.eval_shape(task.reset, jax.random.key(0)).obs.shape[-1])
        self.dt = float(task.dt)
        self.mj_model = task.mj_model

    def reset(self, key: jax.Array, num_envs: int, *, stagger: bool = False, num_starts: int | None = None) -> EnvState:
        """Start B = `num_envs` episodes.

        Args:
            key: one typed PRNG key.
            num_envs: B.
            stagger: spread the clocks of the time limit evenly over an episode, so that a batch covers all phases of an
                episode and resets do not coincide. The first episode of most environments is then shorter.
            num_starts: P, the number of start states kept ready for auto-reset; default B / 8, at least 1. Every device
                holds all of them.

        Raises:
            ValueError: if B is not divisible by the number of devices of the mesh.
        """
        if num_envs % self._num_devices:
            raise ValueError(f"num_envs {num_envs} is not allowed: a multiple of the {self._num_devices} devices")
        env_key, starts_key, reset_key = jax.random.split(key, 3)
        clock = jnp.asarray(np.arange(num_envs) * self.episode_length // num_envs, jnp.int32)  # the product has 64 bits
        num_starts = max(1, num_envs // ENVS_PER_START) if num_starts is None else num_starts
        state = EnvState(
            physics=self._start_states(reset_key, num_envs),
            starts=None,
            clock=clock if stagger else jnp.zeros_like(clock),
            length=jnp.zeros(num_envs, jnp.int32),
            episode_return=jnp.zeros(num_envs),
            num_failures=jnp.zeros(num_envs, jnp.int32),
            key=jax.random.split(env_key, num_envs),
        )
        return self._place(state, self._axis)._replace(starts=self._pool(starts_key, num_starts))

    def refresh(self, state: EnvState, key: jax.Array) -> EnvState:
        """Draw new start states for future auto-resets; call once per rollout."""
        return state._replace(starts=self._pool(key, state.starts.reward.shape[0]))

    def step(self, state: EnvState, action: jax.Array) -> tuple[EnvState, StepResult]:
        """Advance every environment by one control step.

        Args:
            state: of B environments.
            action: (B, d) in [-1, 1].
        """
        chex.assert_shape(action, (*state.clock.shape, self.action_size))
        physics = _strong(self._per_env(self._task.step, self._axis)(state.physics, action))
        measured = is_measured(physics.obs).all(-1) & is_measured(physics.reward) & is_measured(action).all(-1)
        terminated = ~measured | (physics.done > 0)
        reward = jnp.where(measured, physics.reward, 0.0)
        if self._terminate_below is not None:
            terminated |= reward < self._terminate_below
        length, clock = state.length + 1, state.clock + 1
        truncated = (clock >= self.episode_length) & ~terminated
        done = terminated | truncated
        episode_return = state.episode_return + reward
        result = StepResult(
            reward=reward,
            next_obs=jnp.where(measured[:, None], physics.obs, state.physics.obs),
            terminated=terminated,
            truncated=truncated,
            episode_return=jnp.where(done, episode_return, 0.0),
            episode_length=jnp.where(done, length, 0),
        )
        keys = jax.vmap(lambda k: jax.random.split(k, 2))(state.key)  # (B, 2)
        start = jax.vmap(lambda k: jax.random.randint(k, (), 0, state.starts.reward.shape[0]))(keys[:, 0])
        fresh = jax.tree.map(lambda leaf: leaf[start], state.starts)
        next_state = EnvState(
            physics=_select(done, fresh, physics),
            starts=state.starts,
            clock=jnp.where(done, 0, clock),
            length=jnp.where(done, 0, length),
            episode_return=jnp.where(done, 0.0, episode_return),
            num_failures=state.num_failures + ~measured,
            key=keys[:, 1],
        )
        return next_state, result

    def with_length(self, episode_length: int) -> BatchedEnv:
        """The same task on the same devices, with episodes of another length that no reward ends."""
        return BatchedEnv(self._task, episode_length, self._mesh, self._axis)

    def on_one_device(self) -> BatchedEnv:
        """The same task for any number of environments, all on one device."""
        return BatchedEnv(self._task, self.episode_length, terminate_below=self._terminate_below)

    @property
    def _num_devices(self) -> int:
        return 1 if self._mesh is None else self._mesh.shape[self._axis]

    def _start_states(self, key: jax.Array, num: int) -> Any:
        keys = jax.random.split(key, num)
        # each device computes its share, or all of a number that cannot be shared
        return _strong(self._per_env(self._task.reset, self._axis if num % self._num_devices == 0 else None)(keys))

    def _pool(self, key: jax.Array, num: int) -> Any:
        """Start states that any environment may draw, copied to every device once so that a step needs no
        communication."""
        return self._place(self._start_states(key, num), None)

    def _per_env(self, function: Callable, axis: str | None) -> Callable:
        """Map over environments, every device over its own (`axis`) or over all (None)."""
        mapped = jax.vmap(function)
        if self._mesh is None:
            return mapped
        spec = PartitionSpec(axis)
        return jax.shard_map(mapped, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False)

    def _place(self, tree: Any, axis: str | None) -> Any:
        """Constrain where the compiler keeps arrays: spread along their first axis, or (None) whole on every device."""
        if self._mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self._mesh, PartitionSpec(axis)))
