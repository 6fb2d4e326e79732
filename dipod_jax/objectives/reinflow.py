"""ReinFlow: one ratio for the whole path of a sampler with learned noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.objectives.dppo import clipped
from dipod_jax.types import Metrics, Scores


@register_objective("reinflow")
@dataclass(frozen=True)
class ReinFlow(Objective):
    """ReinFlow (arXiv 2505.22094): PPO with one joint ratio per path, from its log-prob per state and dimension, and a
    bonus on the entropy of the learned noise.

    It was made for fine-tuning a pretrained flow of four steps; the preset `paper` keeps K = 4 for training from
    scratch.
    """

    policy: ClassVar[str] = "learned-noise-flow"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"policy.num_steps": 4},
        "cpu": {"objective.clip_epsilon": 0.05},
    }

    clip_epsilon: float = 0.01
    """half width of the ratio's trust region, a likelihood ratio to the power 1 / ((K + 1) d), > 0"""
    log_prob_clip: float = 1.0
    """bound on a path's |log-prob| per state and dimension, > 0; beyond it the path has no gradient"""
    entropy_weight: float = 0.03
    """weight of the steps' entropy in nats per step and dimension, >= 0"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("clip_epsilon", "log_prob_clip")
        check.number("entropy_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho A, clip(rho) A) - entropy_weight mean_{k,d} 1/2 log(2 pi e sigma^2), rho = p_new / p_old of the
        clipped log-probs.

        Args:
            new, old: (..., 1) -log p of the path / ((K + 1) d).
            advantage: (...).
        """
        del reference
        assert new.steps is not None, "the policy is a chain of Gaussian steps"
        bound = self.log_prob_clip
        log_ratio = jnp.clip(old.mean(), -bound, bound) - jnp.clip(new.mean(), -bound, bound)
        loss = clipped(log_ratio, advantage, self.clip_epsilon).mean()
        entropy = jnp.log(new.steps.std).mean() + 0.5 * np.log(2.0 * np.pi * np.e)
        metrics = ratio_metrics(log_ratio, self.clip_epsilon)
        metrics |= {"step_noise": new.steps.std.mean(), "clipped_log_prob": (jnp.abs(new.mean()) > bound).mean()}
        return loss - self.entropy_weight * entropy, metrics
