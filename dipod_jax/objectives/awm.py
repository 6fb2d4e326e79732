"""AWM: advantage-weighted flow matching behind a ratio, held by a KL of velocities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.regularisers.velocity import VelocityWeighting, velocity_kl
from dipod_jax.types import Metrics, Scores

Weighting = Literal["uniform", "t", "t2", "huber", "ghuber"]
FLOOR = 1e-10  # under the roots, so that their slope is finite at a loss of 0
POWER = 0.25  # of ghuber


def weigh(loss: jax.Array, time: jax.Array, weighting: Weighting) -> jax.Array:
    """W(L, t), the negative log-probability that AWM assigns to a draw, elementwise (official code).

        uniform  L        t  t L        t2  t^2 L        huber  t (sqrt(L + 1e-10) - 1e-5)
        ghuber   t ((L + 1e-10)^p - (1e-10)^p) / p,  p = 1/4

    Args:
        loss: (...) L >= 0, the velocity's squared error, mean over dimensions.
        time: (...) t in [0, 1], 1 is noise.
        weighting: one of the five; huber and ghuber do not correspond to any likelihood.
    """
    if weighting == "uniform":
        return loss
    if weighting == "t":
        return time * loss
    if weighting == "t2":
        return jnp.square(time) * loss
    if weighting == "huber":
        return time * (jnp.sqrt(loss + FLOOR) - FLOOR**0.5)
    return time * ((loss + FLOOR) ** POWER - FLOOR**POWER) / POWER


@register_objective("awm")
@dataclass(frozen=True)
class Awm(Objective):
    """AWM: the ratio of weighted flow-matching losses, with a very wide clip, and a KL of velocities to a reference
    policy (Advantage Weighted Matching, eqs. 2 and 9-12 and its code).

    The code has two such KLs: to the pretrained model, and with a weight of 1 to a lagging copy that begins as the last
    iteration's policy. The one here is the second: `--learning.reference-decay` 0 (the presets) is the policy of the
    last iteration, between 0 and 1 a running average; 1, the initial policy, makes it the first. The code clamps
    advantages at 5 and divides them by 5, so its weights are a fifth of those here.
    """

    policy_defaults: ClassVar[Mapping[str, Any]] = {"loss_form": "velocity"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "policy.draws": "stratified",
            "learning.advantage_clip": 5.0,
            "learning.reference_decay": 0.0,
        }
        for name in ("paper", "cpu")
    }

    weighting: Weighting = "ghuber"
    """how the loss L of a draw at time t is weighted: uniform (the paper's experiments), t, t2, huber or ghuber (the
    code's default)"""
    ratio: Literal["per-draw", "average"] = "per-draw"
    """one ratio per draw, or the mean over draws before the exponential"""
    clip_epsilon: float = 1.0
    """half width of the ratio's trust region, > 0; at 1 it only stops samples with A > 0, at a ratio of 2"""
    kl: VelocityWeighting = "uniform"
    """weight of a draw in the KL of velocities: uniform, or (1 - t) / (.98 t)"""
    kl_weight: float | None = 0.4
    """weight of the KL, >= 0; none: no KL and no reference policy"""

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight is not None

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.positive("clip_epsilon")
        check.number("kl_weight")

    def check_policy(self, policy: Any) -> None:
        velocity = policy.loss_form == "velocity" or self.weighting == "uniform"
        what = f"velocity with the objective awm, whose weighting {self.weighting} is of that loss; uniform takes any"
        Checked(policy, "policy").require(velocity, "loss_form", what)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """mean max(-A rho, -A clip(rho)) + kl_weight mean (v_new - v_ref)^2, rho = exp(W(l_old, t) - W(l_new, t)).

        Args:
            new, old, reference: of a flow, (..., N) velocity losses at the same draws, with the field there; losses of
                another form only where the weighting is uniform.
            advantage: (...).
        """
        assert new.field is not None, "scores of a flow"
        time = new.field.time
        log_ratio = weigh(old.loss, time, self.weighting) - weigh(new.loss, time, self.weighting)
        if self.ratio == "average":
            losses = ppo_clip(exp_bounded(log_ratio @ new.weight), advantage, self.clip_epsilon)
        else:
            losses = ppo_clip(exp_bounded(log_ratio), advantage[..., None], self.clip_epsilon) @ new.weight
        metrics = ratio_metrics(log_ratio, self.clip_epsilon)
        if self.kl_weight is None:
            return losses.mean(), metrics
        assert reference is not None and reference.field is not None, "a config with a KL keeps a reference"
        kl = velocity_kl(new.field, reference.field, self.kl).mean()
        return losses.mean() + self.kl_weight * kl, metrics | {"reference_kl": kl}

    def divergence(self, new: Scores, old: Scores) -> jax.Array:
        """(...) its KL of velocities, to the acting policy: mean (v_new - v_old)^2."""
        assert new.field is not None and old.field is not None, "scores of a flow"
        return velocity_kl(new.field, old.field, self.kl)
