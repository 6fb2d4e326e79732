"""The sampler as a decision process: a clipped ratio for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.types import Metrics, Scores


def clipped(log_ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """PPO's clipped losses of ratios that cannot overflow, elementwise: log rho is capped at 20 with its gradient kept,
    far beyond any clip.

    Args:
        log_ratio: (...), for example of each step.
        advantage: broadcasts against it.
        clip_epsilon: > 0.
    """
    return ppo_clip(exp_bounded(log_ratio), advantage, clip_epsilon)


@register_objective("dppo")
@dataclass(frozen=True)
class Dppo(Objective):
    """Diffusion policy policy optimization: PPO over the sampler's noisy steps (arXiv 2409.00588), with FPO's settings
    for these tasks: constant noise of .05, clip .2, K = 10 (arXiv 2507.21053, section 4.2). That noise is for 60M env
    steps; with the preset `cpu`, whose noise is .5, it learns nothing in half a million.

    DPPO's own code also clamps log-probs to [-5, 2] and averages them over dimensions, widens the clip along the chain,
    and discounts by .99 per step. Only the discount is an option here.
    """

    policy: ClassVar[str] = "noisy-flow"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    clip_epsilon: float = 0.2
    """half width of every step's trust region, > 0"""
    denoising_discount: float = 1.0
    """factor on the advantage for every sampler step that remains, in [0, 1]; 1 (FPO) credits all steps equally"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("clip_epsilon")
        check.number("denoising_discount", high=1.0)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_{B,k} min(rho_k A_k, clip(rho_k) A_k), rho_k = N_new / N_old of step k, A_k = discount^(K-1-k) A.

        Args:
            new, old: (..., K) -log N of every step, summed over action dimensions.
            advantage: (...).
        """
        del reference
        to_come = jnp.arange(new.loss.shape[-1])[::-1]
        log_ratio = old.loss - new.loss
        credit = advantage[..., None] * self.denoising_discount**to_come
        return clipped(log_ratio, credit, self.clip_epsilon).mean(), ratio_metrics(log_ratio, self.clip_epsilon)
