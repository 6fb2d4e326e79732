"""Sandwiched policy gradient over tokens: the bound that is pushed lies on the side that makes the push safe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.bounds.mask_draws import estimated_eubo_per_token
from dipod_jax.checks import Checked
from dipod_jax.objectives import Objective
from dipod_jax.options import register_options
from dipod_jax.types import Metrics, Scores


@register_options
@dataclass(frozen=True)
class TokenSpg(Objective):
    """-mean A S, S the ELBO where A > 0 and `mix` EUBO + (1 - mix) ELBO elsewhere (SPG, arXiv 2510.09541, eqs. 5-8).

    No ratio and no clip: the old scores are not read, and the rate must be small. The EUBO is per token over the masks
    of the scores, without its constant; in the objective of sequences of unlike length the scores should be divided by
    it (`length_normalised`).
    """

    name: ClassVar[str] = "spg"
    policy: ClassVar[str] = "masked"

    eubo_order: float = 1.5
    """order of the upper bound, > 0; an upper bound for certain from the number of blanks on"""
    mix: float = 0.5
    """omega, share of the EUBO where A <= 0, 0 to 1"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("eubo_order")
        check.number("mix", high=1.0)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The loss over scores of a policy over tokens, one a mask; advantage (...)."""
        del old, reference
        assert new.tokens is not None, "scores of a policy over tokens"
        lower = -new.mean()
        log_prob, coefficient, scale = new.tokens
        upper = scale * estimated_eubo_per_token(log_prob, coefficient, new.weight, self.eubo_order)
        score = jnp.where(advantage > 0.0, lower, self.mix * upper + (1.0 - self.mix) * lower)
        return -jnp.mean(advantage * score), {"sandwich_width": jnp.mean(upper - lower)}
