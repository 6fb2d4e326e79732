"""Everything a run is made of between two iterations: one pytree of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.config import Config
from dipod_jax.envs import EnvState
from dipod_jax.training.statistics import RunningStatistics

# What a learner's key is folded with for streams apart from training's, whose iterations stay below 2**31.
EVALUATION, METER = 2**31 + 1, 2**31 + 2
INITIAL_DISTILLATION = 2**31 + 3  # and the phase
VIDEO = 2**32 - 1


class Tunables(NamedTuple):
    """Hyper-parameters that are data, so that one compiled program serves a whole sweep. All () float32."""

    beta: jax.Array
    learning_rate: jax.Array
    final_learning_rate: jax.Array
    clip_epsilon: jax.Array
    entropy_cost: jax.Array
    num_iterations: jax.Array  # over which the learning rate goes from its first to its last value

    @classmethod
    def of(cls, config: Config) -> Tunables:
        """The config's values."""
        learning = config.learning
        options = config.fpo if config.objective == "fpo" else config.ppo
        last = learning.learning_rate if learning.final_learning_rate is None else learning.final_learning_rate
        values = (config.initial_beta, learning.learning_rate, last, options.clip_epsilon)
        return cls(
            *map(jnp.float32, values),
            entropy_cost=jnp.float32(config.ppo.entropy_cost if config.objective == "ppo" else 0.0),
            num_iterations=jnp.float32(config.num_iterations),
        )


class ActorState(NamedTuple):
    """What the rollout carries for B environments; leaves have leading axis (B,), the environments' starts (P,)."""

    env: EnvState
    base_noise: jax.Array  # (B, d) the last step's base noise, from which the next is correlated


class LearnerState(NamedTuple):
    """What is the same on every device shard."""

    params: dict[str, Any]  # "policy" and "critic"
    optimizer: dict[str, Any]  # the same keys
    distiller: Any  # optimiser of self-distillation, for the policy's parameters
    obs_statistics: RunningStatistics
    tunables: Tunables
    key: jax.Array  # ()
    iteration: jax.Array  # () int32


class TrainState(NamedTuple):
    """One seed's run; several seeds are one more leading axis."""

    learner: LearnerState
    actor: ActorState


class Transitions(NamedTuple):
    """One rollout, leading axes (T, B)."""

    obs: jax.Array  # (T, B, O) as the environment gave it
    next_obs: jax.Array  # (T, B, O) before any auto-reset
    base_noise: jax.Array  # (T, B, d)
    action: jax.Array  # (T, B, d) stored pre-tanh action
    reward: jax.Array  # (T, B)
    terminated: jax.Array  # (T, B) bool
    truncated: jax.Array  # (T, B) bool
    episode_return: jax.Array  # (T, B), where an episode ended
    episode_length: jax.Array  # (T, B) int32, 0 where none ended
