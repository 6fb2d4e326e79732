"""Mirror descent on path measures: the policy gradient of a chain, with the KL of its whole path as a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.types import Metrics, Scores, Steps


@register_objective("gsb-mdpo")
@dataclass(frozen=True)
class GsbMdpo(Objective):
    """GSB-MDPO (arXiv 2603.21621): maximise the advantage minus the path KL to the acting policy, both
    importance-weighted on the acting policy's paths. The KL replaces a clipped objective.

    By the data-processing inequality the path KL is an upper bound of the actions' KL; for constant noise it is a
    squared difference of drifts (Girsanov). The paper's weights and clips are not known; the defaults are this
    library's. They do not carry over to another K or `--policy.step-noise`, on which the KL depends.
    """

    policy: ClassVar[str] = "noisy-flow"
    exact_action: ClassVar[bool] = True
    trust_region: ClassVar[tuple[str, ...]] = ("path_kl_weight",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    path_kl_weight: float = 1.0
    """1 / alpha, weight of the path KL in nats against standardised advantages, >= 0"""
    step_clip: float = 0.2
    """bound on each step's |log ratio|, > 0; beyond it only the KL gives the step a gradient"""
    path_clip: float = 1.0
    """bound on |the sum of these over a path|, > 0"""
    direction: Literal["new", "old"] = "new"
    """the paper's KL(new || old), importance-weighted; or KL(old || new), which needs no weight and is less noisy"""
    anchor_mixing: float = 0.0
    """lambda: the KL is taken to the acting policy's drift times 1 - lambda, which spreads actions, in [0, 1]"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.number("path_kl_weight")
        check.positive("step_clip", "path_clip")
        check.number("anchor_mixing", high=1.0)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_B R (A - C / alpha), with d_k = log N_new - log N_old of step k,

            R = exp(clip(sum_k clip(d_k, +-step_clip), +-path_clip)),
            C = sum_k |mu_new_k - mu_old_k|^2 / (2 std_k^2)    (eq. 22),

        for the direction `old` -mean_B (R A - C / alpha).

        Args:
            new, old: (..., K) -log N of every step and the steps themselves, of equal noise.
            advantage: (...).
        """
        del reference
        assert new.steps is not None and old.steps is not None, "the policy is a chain of Gaussian steps"
        log_ratios = old.loss - new.loss
        bounded = jnp.clip(log_ratios, -self.step_clip, self.step_clip).sum(-1)
        ratio = exp_bounded(jnp.clip(bounded, -self.path_clip, self.path_clip))
        anchor = Steps((1.0 - self.anchor_mixing) * old.steps.move, old.steps.std)
        cost = jnp.where(new.known, anchor.divergence(new.steps), 0.0).sum(-1)
        weight = ratio if self.direction == "new" else 1.0
        loss = -(ratio * advantage - weight * self.path_kl_weight * cost).mean()
        return loss, ratio_metrics(log_ratios, self.step_clip) | {"path_kl": cost.mean()}
