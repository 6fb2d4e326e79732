"""Staying close to a reference policy, in the units of the scores: three KL estimators, and the regulariser built on
one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from dipod_jax.regularisers.base import Regulariser, Terms, register_regulariser
from dipod_jax.types import Scores, matched

MAX_EXPONENT = 20.0  # of k3: e^20 and its gradient are finite in float32, also weighted and squared


def log_ratio_to(reference: Scores, new: Scores, *, per_draw: bool = False) -> jax.Array:
    """D = l_ref - l_new, the surrogate of log pi_new - log pi_ref: (...) from the means over draws, or (..., N) for
    each draw. It is 0, without gradient, if either score is unknown. No gradient flows into the reference.
    """
    new, reference = matched(new, jax.lax.stop_gradient(reference))
    return reference.loss - new.loss if per_draw else reference.mean() - new.mean()


def kl_estimate(log_ratio: jax.Array, kind: Literal["k2", "k1", "k3"]) -> jax.Array:
    """An estimator of the KL between the current policy and a reference, elementwise (ESPO, arXiv 2512.03759, code).

        k2 = D^2 / 2                      gradient  D grad(log pi): the pull to the reference
        k1 = D + (D - sg D) sg D          value D; gradient  (1 + D) grad(log pi), that of KL(pi || ref) on own samples
        k3 = exp(-D) - 1 + D              gradient  (1 - exp(-D)) grad(log pi); never negative

    The plain mean of D has the right value too, but its gradient is grad(log pi) whatever the reference: on a bound,
    that is DiPOD with the opposite sign, so it is not offered. The 1 in k1's gradient is the same term: its mean over
    own samples is 0 for a likelihood, not for a bound, and a k1 with DiPOD's beta for its weight leaves nothing of it.
    k2 and k3 have no such term. The exponent of k3 is clamped at 20 with its gradient kept.

    Args:
        log_ratio: D (...), whose gradient is that of log pi.
        kind: which.
    """
    if kind == "k2":
        return 0.5 * jnp.square(log_ratio)
    if kind == "k1":
        return log_ratio + (log_ratio - stop_gradient(log_ratio)) * stop_gradient(log_ratio)
    exponent = -log_ratio + stop_gradient(jnp.minimum(-log_ratio, MAX_EXPONENT) + log_ratio)
    return jnp.exp(exponent) - 1.0 + log_ratio


@register_regulariser("k2")
@dataclass(frozen=True)
class K2(Regulariser):
    """weight * mean (l_ref - l_new)^2 / 2 (ESPO, arXiv 2512.03759): half the squared log ratio to a reference policy.

    The weight is in the unit of the scores: for a loss that is the mean over d dimensions, ESPO's beta is weight / d.
    """

    needs_reference: ClassVar[bool] = True

    draws: Literal["average", "per-draw"] = "average"
    """square the difference of mean losses, or each draw's (GDSD)"""

    def __call__(self, terms: Terms) -> jax.Array:
        """weight * k2."""
        assert terms.reference is not None, "a config with this regulariser keeps a reference"
        log_ratio = log_ratio_to(terms.reference, terms.new, per_draw=self.draws == "per-draw")
        k2 = kl_estimate(log_ratio, "k2")
        return self.weight * (k2 @ terms.new.weight if self.draws == "per-draw" else k2).mean()
