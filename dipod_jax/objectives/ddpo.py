"""DDPO and Flow-GRPO: a ratio for each step of the sampler, averaged over action dimensions, with a very narrow
clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.objectives.dppo import clipped
from dipod_jax.types import Metrics, Scores


def mean_log_ratio(new: Scores, old: Scores) -> jax.Array:
    """(..., K) log rho of each step, divided by d: both codes average a step's log-prob over dimensions."""
    assert new.steps is not None, "the policy is a chain of Gaussian steps"
    return (old.loss - new.loss) / new.steps.move.shape[-1]


@register_objective("ddpo")
@dataclass(frozen=True)
class Ddpo(Objective):
    """Denoising diffusion policy optimization (DDPO-IS, arXiv 2305.13301): PPO over DDIM's steps at eta = 1, each
    step's log-prob averaged over dimensions.

    `paper` uses its clip of 1e-4, chosen for images of 10^4 dimensions and few updates per batch; `cpu` uses a wider
    one that suits the many updates here.
    """

    policy: ClassVar[str] = "ddim-flow"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"learning.advantage_clip": 5.0},
        "cpu": {"objective.clip_epsilon": 0.05},
    }

    clip_epsilon: float = 1e-4
    """half width of the trust region of every step's ratio, a likelihood ratio to the power 1/d, > 0"""

    def validate(self) -> None:
        Checked(self, "objective").positive("clip_epsilon")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean_{B,k} min(rho_k A, clip(rho_k) A), log rho_k = (log N_new - log N_old) / d of step k.

        Args:
            new, old: (..., K) -log N of every step, summed over action dimensions.
            advantage: (...).
        """
        del reference
        log_ratio = mean_log_ratio(new, old)
        loss = clipped(log_ratio, advantage[..., None], self.clip_epsilon).mean()
        return loss, ratio_metrics(log_ratio, self.clip_epsilon)


@register_objective("flow-grpo")
@dataclass(frozen=True)
class FlowGrpo(Ddpo):
    """Flow-GRPO (arXiv 2505.05470): DDPO's loss on the steps of an SDE with the flow's marginals, plus a KL of the
    steps to a reference policy.

    The paper's advantage is relative to a group of images for one prompt; here it is the learner's. The paper's
    reference is a pretrained model; training from scratch has none, so the presets use the acting policy, which makes
    the KL a proximal term (`--learning.reference-decay` 0).
    """

    policy: ClassVar[str] = "flow-sde"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"learning.advantage_clip": 5.0, "learning.reference_decay": 0.0},
        "cpu": {"objective.clip_epsilon": 0.05, "learning.reference_decay": 0.0},
    }

    kl_weight: float = 0.04
    """weight of the KL between the steps and those of the reference policy, >= 0"""

    @property
    def needs_reference(self) -> bool:
        return True

    def validate(self) -> None:
        super().validate()
        Checked(self, "objective").number("kl_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """DDPO's loss + kl_weight mean_{B,k,d} (mu - mu_ref)^2 / (2 s_t^2).

        s_t is the diffusion, as in the code, not the step's std s_t sqrt(-dt): on the uniform grid, dt = -1/K, the term
        is the steps' KL / (K d).
        """
        assert reference is not None and reference.steps is not None and new.steps is not None
        loss, metrics = super().__call__(new, old, None, advantage)
        num_steps, action_size = new.steps.move.shape[-2:]
        kl = new.steps.divergence(reference.steps).mean() / (num_steps * action_size)
        return loss + self.kl_weight * kl, metrics | {"reference_kl": kl}
