"""DMPO: fit the policy to its samples, weighted towards the optimum of a KL-regularised objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.types import Metrics, Scores, matched


def batch_softmax(logits: jax.Array) -> jax.Array:
    """(...) softmax over all entries of a batch: weights that sum to 1. No gradient."""
    return jax.nn.softmax(stop_gradient(logits).reshape(-1)).reshape(logits.shape)


def contrast(advantage: jax.Array, log_weight: ArrayLike, temperature: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """(...) w+ = softmax(log_weight + A / temperature) and w- = softmax(log_weight - A / temperature)."""
    return tuple(batch_softmax(log_weight + sign * advantage / temperature) for sign in (1.0, -1.0))  # pyright: ignore


@register_objective("dmpo")
@dataclass(frozen=True)
class Dmpo(Objective):
    """DMPO: cross-entropy to pi* ~ pi_ref exp(A / temperature) with self-normalised weights, minus its mirror image
    (official code).

    The weights are a softmax over the minibatch; the paper takes it over a group of answers to one prompt. There is no
    trust region. The loss of a sample with negative weight is raised without limit, which loosens its bound, unless
    `negative_loss_clamp` stops it, as the presets do. On tokens: sequence scores, and one call for each prompt's group.
    """

    trust_region: ClassVar[tuple[str, ...]] = ("temperature",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"policy.draws": "antithetic", "objective.negative_loss_clamp": 3.0} for name in ("paper", "cpu")
    }

    temperature: float = 1.0
    """alpha > 0, in units of standardised advantages; the paper's .04 is for rewards in [0, 1]"""
    centering: float = 1.0
    """factor on the weights of -A, which are subtracted, >= 0; at 1 the weights sum to 0"""
    reference_weight: float | None = None
    """factor on log pi_ref - log pi_old in the weights, >= 0, in the unit of the scores (1 in the paper); none: no
    reference policy"""
    negative_loss_clamp: float | None = None
    """a sample with negative weight and a mean loss above this is ignored, > 0; none: no limit"""

    @property
    def needs_reference(self) -> bool:
        return self.reference_weight is not None

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("temperature", "negative_loss_clamp")
        check.number("centering", "reference_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """sum_B (w+ - c w-) mean_n l_new, w+- = softmax_B(eta (l_old - l_ref) +- A / temperature), without gradient.

        For a small A / temperature the difference is 2 A / (B temperature): the scale of a mean over the batch.

        Args:
            new, old, reference: (..., N) losses at the same draws.
            advantage: (...).
        """
        log_weight: ArrayLike = 0.0
        if self.reference_weight is not None:
            assert reference is not None, "a config with a weight of the reference keeps one"
            acting, fixed = matched(old, reference)
            log_weight = self.reference_weight * (acting.mean() - fixed.mean())
        good, bad = contrast(advantage, log_weight, self.temperature)
        return weighted_loss(good - self.centering * bad, new, old, self.negative_loss_clamp)


def weighted_loss(
    weight: jax.Array, new: Scores, old: Scores, negative_loss_clamp: ArrayLike | None
) -> tuple[jax.Array, Metrics]:
    """sum_B weight (...) * mean_n l_new; the loss of a sample with negative weight is capped at the clamp."""
    loss = new.mean()
    if negative_loss_clamp is not None:
        loss = jnp.where(weight < 0.0, jnp.minimum(loss, negative_loss_clamp), loss)
    effective = jnp.square(jnp.abs(weight).sum()) / jnp.maximum(jnp.square(weight).sum(), 1e-20)  # 0 where none has one
    return (weight * loss).sum(), ratio_metrics(old.mean() - new.mean(), 1.0) | {"effective_samples": effective}
