"""PolicyFlow: PPO on a flow's terminal noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.objectives.dppo import clipped
from dipod_jax.types import Metrics, Scores


@register_objective("policyflow")
@dataclass(frozen=True)
class PolicyFlow(Objective):
    """PolicyFlow (arXiv 2602.01156): a clipped ratio of the density of the terminal noise, whose mean shifts by the
    change of velocity at a point of the path, with an entropy bonus and the Brownian regulariser.

    Its settings on these tasks are not published: the weights are its code's defaults. That code adapts the rate to a
    KL (`--learning.kl-target .01`); its midpoint sampler is an option, `--policy.sampler`.
    """

    policy: ClassVar[str] = "terminal-noise-flow"
    exact_action: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "policy.sampler": "midpoint",
            "learning.advantages": "iteration",
            "learning.policy_gradient_clip": 1.0,
            "learning.critic_gradient_clip": 1.0,
        },
    }

    clip_epsilon: float = 0.2
    """half width of the trust region of every draw's ratio, > 0"""
    entropy_weight: float = 0.01
    """weight of the terminal noise's entropy in nats, >= 0"""
    brownian_weight: float = 0.01
    """weight of the Brownian regulariser, >= 0"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.positive("clip_epsilon")
        check.number("entropy_weight", "brownian_weight")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean min(rho_n A, clip(rho_n) A) - entropy_weight sum_d log sigma + brownian_weight R, with
        log rho_n = sum_d [n^2 / (2 sigma_old^2) - (n + u_n)^2 / (2 sigma^2) - log(sigma / sigma_old)].

        Args:
            new, old: (..., N) -log densities of the terminal noise at the same N points of the path.
            advantage: (...).
        """
        del reference
        assert new.steps is not None and new.penalty is not None, "the policy has terminal noise"
        log_ratio = old.loss - new.loss
        loss = (clipped(log_ratio, advantage[..., None], self.clip_epsilon) @ new.weight).mean()
        log_std = jnp.log(new.steps.std).sum(-1).mean()
        loss += self.brownian_weight * new.penalty.mean() - self.entropy_weight * log_std
        metrics = ratio_metrics(log_ratio, self.clip_epsilon)
        return loss, metrics | {"terminal_std": new.steps.std.mean(), "brownian": new.penalty.mean()}
