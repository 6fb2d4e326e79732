"""The value network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.networks import MLP
from dipod_jax.policies.base import check_hidden_sizes
from dipod_jax.types import Params


@dataclass(frozen=True)
class CriticOptions:
    """The value network."""

    hidden_sizes: tuple[int, ...] = (256, 256, 256, 256, 256)
    """widths of the hidden layers, each >= 1"""
    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    """nonlinearity between layers"""

    def validate(self) -> None:
        """Reject options that are out of range, with one line."""
        Checked(self, "critic").choices()
        check_hidden_sizes("critic.hidden-sizes", self.hidden_sizes)


class Critic:
    """V(obs): expected discounted return, in units of scaled reward."""

    def __init__(self, options: CriticOptions, observation_size: int):
        self.observation_size = observation_size
        self._network = MLP(options.hidden_sizes, 1, options.activation)

    def init(self, key: jax.Array) -> Params:
        """Parameters."""
        return self._network.init(key, jnp.zeros(self.observation_size))

    def value(self, params: Params, obs: jax.Array) -> jax.Array:
        """(...) values of obs (..., O)."""
        return self._network.apply(params, obs)[..., 0]  # pyright: ignore
