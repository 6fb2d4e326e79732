"""BGPO: a lower bound of the surrogate that is a sum over draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, clamp_straight_through, exp_bounded, ratio_metrics, register_objective
from dipod_jax.types import Metrics, Scores


@register_objective("bgpo")
@dataclass(frozen=True)
class Bgpo(Objective):
    """BGPO: a lower bound of rho A that is linear in the draws, so that more draws cost no memory (arXiv 2510.11683,
    eqs. 7-19).

    The paper has no clip. Over many epochs on one rollout the linear part then grows without limit, so the presets stop
    a draw where PPO would (`stop_epsilon`), which keeps it a lower bound. They process 4 draws at a time
    (`--policy.draws-at-once`), so that the gradient's memory does not grow with their number; `paper` uses 16 draws, as
    the paper does. On tokens it uses sequence scores.
    """

    trust_region: ClassVar[tuple[str, ...]] = ("stop_epsilon",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"objective.stop_epsilon": stop, "policy.num_draws": num_draws, "policy.draws_at_once": 4}
        for name, stop, num_draws in (("paper", 0.05, 16), ("cpu", 0.15, 8))
    }

    stop_epsilon: float | None = None
    """beyond a ratio of 1 + this (A >= 0) or 1 - this (A < 0) a draw has no gradient, 0 < eps < 1; none: no limit"""
    log_ratio_clip: float = 10.0
    """upper bound on the log ratio before the exponential for A < 0, gradient kept (straight-through), > 0"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("log_ratio_clip")
        inside = self.stop_epsilon is None or 0.0 < self.stop_epsilon < 1.0
        check.require(inside, "stop_epsilon", "more than 0 and less than 1")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_B sum_n w_n g_n with d_n = l_old_n - l_new_n and g_n = (1 + d_n) A where A >= 0 (e^x >= 1 + x), e^d_n A
        where A < 0 (Jensen). The sum is never above exp(sum_n w_n d_n) A, as long as no d_n of an A < 0 is over
        `log_ratio_clip`.

        Args:
            new, old: (..., N) losses at the same draws.
            advantage: (...).
        """
        del reference
        log_ratio = old.loss - new.loss
        rising, falling = log_ratio, log_ratio
        if self.stop_epsilon is not None:
            rising = jnp.minimum(rising, jnp.log1p(self.stop_epsilon))
            falling = jnp.maximum(falling, jnp.log1p(-self.stop_epsilon))
        good = 1.0 + rising
        bad = exp_bounded(clamp_straight_through(falling, None, self.log_ratio_clip))
        bound = jnp.where(advantage >= 0.0, good @ new.weight, bad @ new.weight) * advantage
        stop = jnp.inf if self.stop_epsilon is None else self.stop_epsilon
        return -bound.mean(), ratio_metrics(log_ratio, stop)
