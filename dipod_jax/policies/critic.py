"""The value network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dipod_jax.config import CriticConfig
from dipod_jax.networks import MLP


class Critic:
    """V(obs): expected discounted return, in units of scaled reward."""

    def __init__(self, config: CriticConfig, observation_size: int):
        self.observation_size = observation_size
        self._network = MLP(config.hidden_sizes, 1, config.activation)

    def init(self, key: jax.Array) -> Any:
        """Parameters."""
        return self._network.init(key, jnp.zeros(self.observation_size))

    def value(self, params: Any, obs: jax.Array) -> jax.Array:
        """(...) values of obs (..., O)."""
        return self._network.apply(params, obs)[..., 0]  # pyright: ignore
