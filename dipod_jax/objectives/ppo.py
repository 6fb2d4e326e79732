"""PPO's clipped surrogate on a likelihood: a Gaussian policy's, or the exact one of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.types import Metrics, Scores


def ppo_clip(ratio: jax.Array, advantage: jax.Array, clip_epsilon: ArrayLike) -> jax.Array:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A), elementwise (PPO, arXiv 1707.06347, eq. 7).

    Args:
        ratio: (...) rho = pi_new / pi_old or its surrogate, >= 0.
        advantage: broadcasts against ratio.
        clip_epsilon: eps > 0.

    Returns:
        (...) losses to minimise. Beyond the clip, in the direction the advantage favours, the gradient is 0.
    """
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon) * advantage)


@register_objective("ppo")
@dataclass(frozen=True)
class Ppo(Objective):
    """Proximal policy optimization of a Gaussian policy (arXiv 1707.06347): rho = pi_new / pi_old, clipped.

    The baseline for the flow objectives; `paper` uses the tuned settings of FPO's appendix A.3.
    """

    policy: ClassVar[str] = "gaussian"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"regularisers.entropy.weight": 1e-2},
        "cpu": {"objective.clip_epsilon": 0.2, "regularisers.entropy.weight": 1e-2},
    }

    clip_epsilon: float = 0.1
    """half width of the ratio's trust region, > 0"""

    def validate(self) -> None:
        Checked(self, "objective").positive("clip_epsilon")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho A, clip(rho) A), log rho = old.loss - new.loss; scores (..., 1) are exact -log pi."""
        del reference
        log_ratio = old.mean() - new.mean()
        loss = ppo_clip(exp_bounded(log_ratio), advantage, self.clip_epsilon).mean()
        return loss, ratio_metrics(log_ratio, self.clip_epsilon)


@register_objective("exact-ppo")
@dataclass(frozen=True)
class ExactPpo(Ppo):
    """PPO on the exact likelihood of a flow's K-step sampler, which is inverted at every update: no bound is optimised,
    so nothing can drift. Several times as expensive as `fpo`; it shows what drift costs.
    """

    policy: ClassVar[str] = "exact-flow"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {"objective.clip_epsilon": 0.2}}
