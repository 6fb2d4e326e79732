"""What an objective is: options, tunables and a pure function of scores and advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipod_jax.checks import Checked
from dipod_jax.options import register_options
from dipod_jax.registry import Registry
from dipod_jax.regularisers.k2 import kl_estimate
from dipod_jax.types import Metrics, Scores


@dataclass(frozen=True)
class Objective:
    """What an update maximises. The fields are its command-line options, float fields can be swept within one compiled
    program, and calling it returns the loss.

    A subclass is a frozen dataclass under `@register_objective(name)` in a file of this package; nothing else has to be
    edited.
    """

    name: ClassVar[str]
    """the word on the command line"""
    policy: ClassVar[str] = "flow"
    """name of the policy family that it trains (`dipod_jax.policies`)"""
    policy_defaults: ClassVar[Mapping[str, Any]] = {}
    """options of that family that it starts from where they are not the family's own: {"loss_form": "velocity"}"""
    exact_action: ClassVar[bool] = False
    """whether its score is only defined for the action exactly as the policy drew it, not for a clipped or perturbed
    one"""
    trust_region: ClassVar[tuple[str, ...]] = ("clip_epsilon",)
    """options that bound how far the policy moves on one rollout; they are numbers in every preset, so that a study can
    scale them"""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """the options it changes in a preset: {"cpu": {"objective.clip_epsilon": 0.15, "beta": 0.05}}; `smoke` uses those
    of `cpu`"""

    @property
    def needs_reference(self) -> bool:
        """Whether, with these options, it needs a reference policy besides the acting one."""
        return False

    def validate(self) -> None:
        """Reject options that are out of range.

        Raises:
            ValueError: one line for the user.
        """
        Checked(self, "objective").choices()

    def check_policy(self, policy: Any) -> None:
        """Refuse options of a policy of its family that it cannot be used with, with one line."""
        del policy

    def check_beta(self, beta: float | str) -> None:
        """Refuse options that work against a --beta, with one line; called where it is not 0."""
        del beta

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The loss to minimise, a scalar, and metrics.

        Args:
            new, old, reference: scores of the same actions and draws under the current, the acting and the reference
                policy; `reference` is None if none is needed.
            advantage: (...) standardised.
        """
        raise NotImplementedError

    def divergence(self, new: Scores, old: Scores) -> jax.Array:
        """(...) KL(acting || current) of each action, as this method measures it; `--learning.kl-target` is a target
        for it.

        If the policy acts by Gaussian steps, it is the KL of the path in closed form, sum_k KL(N_old_k || N_new_k), in
        nats. Otherwise it is k3 = rho - 1 - log rho with log rho = mean_n l_old - mean_n l_new, never negative, in the
        unit of the scores. If the scores are likelihoods, its mean over the acting policy's actions is the KL. It asks
        for no ratio in the loss: the acting policy's scores are there for every method.
        """
        if new.steps is not None and old.steps is not None:
            return new.steps.total(jnp.where(new.known, old.steps.divergence(new.steps), 0.0))
        return kl_estimate(new.mean() - old.mean(), "k3")


OBJECTIVES: Registry[Objective] = Registry("objective")
ObjectiveT = TypeVar("ObjectiveT", bound=Objective)


def register_objective(name: str):
    """A class decorator for a frozen dataclass of options that is an `Objective`."""

    def add(cls: type[ObjectiveT]) -> type[ObjectiveT]:
        OBJECTIVES.register(name)(cls)
        return register_options(cls)

    return add


def ratio_metrics(log_ratio: jax.Array, clip_epsilon: ArrayLike) -> Metrics:
    """The metrics of every objective with a ratio, from log rho (...): how far it moved and how often it left the clip
    range.

    `first_ratio_error` matters at the first update of an iteration, where rho must be 1.
    """
    distance = jnp.abs(jnp.expm1(log_ratio))
    return {
        "loss_change": -log_ratio.mean(),
        "clip_fraction": (distance > clip_epsilon).mean(),
        "first_ratio_error": distance.mean(),
    }


def exp_bounded(log_ratio: jax.Array) -> jax.Array:
    """rho = exp(log_ratio), with the log ratio clipped straight-through at 20: if a policy runs away, neither the ratio
    nor its gradient becomes infinite, and a later step can pull it back. Ratios below 5e8 are unchanged."""
    return jnp.exp(clamp_straight_through(log_ratio, None, 20.0))


def clamp_straight_through(value: jax.Array, low: ArrayLike | None, high: ArrayLike | None) -> jax.Array:
    """The value clipped to [low, high], with its gradient kept, so that a sample that has moved too far can still be
    pulled back."""
    return value + jax.lax.stop_gradient(jnp.clip(value, low, high) - value)
