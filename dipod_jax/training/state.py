"""Everything a run is made of between two iterations: one pytree of arrays."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dipod_jax.config import Config
from dipod_jax.envs import EnvState
from dipod_jax.objectives import Objective
from dipod_jax.options import as_arrays
from dipod_jax.regularisers import Regulariser
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Params

# What a learner's key is folded with for streams apart from training's, whose iterations stay below 2**31.
EVALUATION = 2**31 + 1
INITIAL_DISTILLATION = 2**31 + 3  # and the phase
VIDEO = 2**32 - 1


class Tunables(NamedTuple):
    """Hyper-parameters that are data, so that one compiled program serves a whole sweep. All leaves () float32."""

    objective: Objective
    regularisers: dict[str, Regulariser]  # those that take part, by name
    learning_rate: jax.Array
    final_learning_rate: jax.Array
    num_iterations: jax.Array  # over which the learning rate goes from its first to its last value

    @classmethod
    def of(cls, config: Config) -> Tunables:
        """The config's values."""
        first, last = config.learning.learning_rate, config.learning.final_learning_rate
        return cls(
            as_arrays(config.objective),
            as_arrays(config.active_regularisers),
            jnp.float32(first),
            jnp.float32(first if last is None else last),
            jnp.float32(config.num_iterations),
        )

    @property
    def beta(self) -> jax.Array:
        """DiPOD's weight; 0 where the policy has no bound."""
        dipod = self.regularisers.get("dipod")
        return jnp.zeros_like(self.learning_rate) if dipod is None else jnp.asarray(dipod.weight)

    def with_beta(self, beta: jax.Array) -> Tunables:
        """The same tunables with another beta."""
        dipod = dataclasses.replace(self.regularisers["dipod"], weight=beta)
        return self._replace(regularisers=self.regularisers | {"dipod": dipod})

    def with_rate(self, rate: jax.Array) -> Tunables:
        """The same tunables with another learning rate, constant over all iterations."""
        return self._replace(learning_rate=rate, final_learning_rate=rate)


class ActorState(NamedTuple):
    """What the rollout carries for B environments; leaves have leading axis (B,), the environments' starts (P,)."""

    env: EnvState
    base_noise: jax.Array  # (B, *noise_shape) the last step's base noise, from which the next is correlated


class LearnerState(NamedTuple):
    """What is the same on every device."""

    params: dict[str, Params]  # "policy" and "critic"
    optimizer: optax.OptState
    distiller: optax.OptState  # of self-distillation, for the policy's parameters
    reference: Params | None  # the reference policy, where one is asked for
    obs_statistics: RunningStatistics
    tunables: Tunables
    key: jax.Array  # ()
    iteration: jax.Array  # () int32


class TrainState(NamedTuple):
    """One seed's run; several seeds are one more leading axis."""

    learner: LearnerState
    actor: ActorState
