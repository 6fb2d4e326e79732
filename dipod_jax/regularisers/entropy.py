"""An entropy bonus, for policies whose entropy can be estimated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax

from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser


@register_regulariser("entropy")
@dataclass(frozen=True)
class Entropy(Regulariser):
    """-weight * E[H(pi(. | obs))], for the squashed action, so that the bonus does not reward saturation."""

    needs: ClassVar[Need | None] = "entropy"

    def __call__(self, terms: Terms) -> jax.Array:
        """-weight * mean entropy in nats."""
        assert terms.entropy is not None, "the config's checks refuse this over a policy without"
        return -self.weight * terms.entropy.mean()
