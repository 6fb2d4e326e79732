"""An entropy bonus for flows, of what the network predicts from the draws of one action."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.regularisers.base import Need, Regulariser, Terms, register_regulariser

DISTANCE_RANGE = (1e-6, 1e9)


def knn_entropy(points: jax.Array, neighbour: int) -> jax.Array:
    """(...) Kozachenko and Leonenko's estimate of the entropy of the density that N points (..., N, d) are drawn from,

        H = psi(N) - psi(k) + log c_d + d mean_n log rho_n,    c_d = pi^(d/2) / Gamma(d/2 + 1),

    rho_n the distance of point n to its k-th nearest neighbour, held in [1e-6, 1e9], without gradient outside.

    Args:
        points: (..., N, d), N > k.
        neighbour: k >= 1.
    """
    num_points, size = points.shape[-2:]
    squares = jnp.square(points[..., :, None, :] - points[..., None, :, :]).sum(-1)  # (..., N, N)
    others = jnp.where(jnp.eye(num_points, dtype=bool), jnp.inf, squares)
    # The root has no derivative at 0: the squares are held, and halved as logarithms.
    nearest = jnp.clip(jnp.sort(others, axis=-1)[..., neighbour - 1], *(bound**2 for bound in DISTANCE_RANGE))
    digammas = sum(1.0 / i for i in range(neighbour, num_points))
    log_volume = 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size + 1.0)
    return digammas + log_volume + 0.5 * size * jnp.log(nearest).mean(-1)


@register_regulariser("knn")
@dataclass(frozen=True)
class KnnEntropy(Regulariser):
    """-weight * mean of `knn_entropy` of the N predictions x_t - t v that the network makes of one action at the
    bound's draws (FPO++'s code, which uses it on one task, with N = 256).

    It pushes the predictions for one action apart. This is not the policy's entropy, since the predictions are not
    samples of the policy. With few draws it is mostly noise; its cost grows with the square of their number.
    """

    needs: ClassVar[Need | None] = "field"

    neighbour: int = 1
    """k, which nearest neighbour's distance is taken, at least 1 and less than the number of draws"""

    def validate(self) -> None:
        super().validate()
        Checked(self, "regularisers.knn").number("neighbour", low=1)

    def check_policy(self, policy: Any) -> None:
        what = f"less than policy.num-draws = {policy.num_draws}"
        Checked(self, "regularisers.knn").require(self.neighbour < policy.num_draws, "neighbour", what)

    def __call__(self, terms: Terms) -> jax.Array:
        """-weight * mean entropy in nats."""
        assert terms.new.field is not None, "the config's checks refuse this over a policy without"
        return -self.weight * knn_entropy(terms.new.field.denoised, self.neighbour).mean()
