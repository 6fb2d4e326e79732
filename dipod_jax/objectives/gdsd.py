"""GDSD: regression of the log ratio onto the advantage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.regularisers.k2 import kl_estimate, log_ratio_to
from dipod_jax.types import Metrics, Scores


@register_objective("gdsd")
@dataclass(frozen=True)
class Gdsd(Objective):
    """GDSD: squared error between log rho and guidance * A inside a trust region, with no gradient outside it (official
    code); the target is pi_old exp(guidance A).

    guidance * A should lie inside the region. With the code's values it lies far outside, and the square acts as a
    policy gradient with a hard stop. There is no normaliser: advantages must be centred, as the learner's are. On
    tokens it uses the score of each mask divided by the length.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"policy.draws": "antithetic", "learning.reference_decay": 0.0} for name in ("paper", "cpu")
    }

    guidance: float = 0.05
    """psi, the target log ratio for a standardised advantage of 1, > 0; the code uses 1 and 10"""
    clip_epsilon: float = 0.2
    """the log ratio is clipped to [log(1 - eps), log(1 + eps)], with no gradient outside, 0 < eps < 1; the code clips
    the ratio of whole sequences at 4e-4, which over L tokens is 4e-4 / L here"""
    kl_weight: float | None = None
    """weight of (l_ref - l_new)^2 / 2 of each draw, >= 0; none: no reference policy (the code's is 1e-3)"""

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight is not None

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("guidance")
        check.require(0.0 < self.clip_epsilon < 1.0, "clip_epsilon", "more than 0 and less than 1")
        check.number("kl_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """mean_{B,N} (clip(d, log(1 - eps), log(1 + eps)) - psi A)^2 + kl_weight mean (l_ref - l_new)^2 / 2 with
        d = l_old - l_new.

        Args:
            new, old, reference: (..., N) losses at the same draws.
            advantage: (...), of mean 0.
        """
        log_ratio = old.loss - new.loss
        held = jnp.clip(log_ratio, jnp.log1p(-self.clip_epsilon), jnp.log1p(self.clip_epsilon))
        error = jnp.where(new.known, held - self.guidance * advantage[..., None], 0.0)
        loss, metrics = (jnp.square(error) @ new.weight).mean(), ratio_metrics(log_ratio, self.clip_epsilon)
        if self.kl_weight is None:
            return loss, metrics
        assert reference is not None, "a config with a KL keeps a reference"
        kl = (kl_estimate(log_ratio_to(reference, new, per_draw=True), "k2") @ new.weight).mean()
        return loss + self.kl_weight * kl, metrics | {"reference_kl": kl}
