"""VRPO: preferences between two actions in the same state, judged by their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, ratio_metrics, register_objective
from dipod_jax.types import Metrics, Scores, matched


@register_objective("vrpo")
@dataclass(frozen=True)
class Vrpo(Objective):
    """VRPO: direct preference optimisation on differences of bounds, the paper's ELBOs, at shared draws (LLaDA-1.5).

    The pair is the action taken and another that the acting policy drew in the same state and did not take; the sign of
    the advantage says which is preferred. Only the sign counts: a tenth of a standard deviation counts as much as
    three. The presets take the policy of the last iteration as reference. On tokens it uses sequence scores of two
    answers, and the advantage of the first over the second.
    """

    policy: ClassVar[str] = "paired-flow"
    trust_region: ClassVar[tuple[str, ...]] = ("sharpness",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"policy.draws": "stratified", "learning.reference_decay": 0.0} for name in ("paper", "cpu")
    }

    sharpness: float = 1.0
    """DPO's beta > 0: how fast the gradient vanishes once a pair is told apart, in the unit of the scores; not
    --beta"""

    @property
    def needs_reference(self) -> bool:
        return True

    def validate(self) -> None:
        Checked(self, "objective").positive("sharpness")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean log sigmoid(sharpness sign(A) (D_0 - D_1)), D = l_ref - l_new. A pair with A = 0 has no gradient.

        Args:
            new, reference: (..., 2) losses of an action and of another one of the same state; `old` is used for metrics
                only.
            advantage: (...) of the first over the second.
        """
        assert reference is not None, "a config with this objective keeps a reference"
        chex.assert_shape(new.loss, (*advantage.shape, 2))
        kept, fixed = matched(new, jax.lax.stop_gradient(reference))
        gain = fixed.loss - kept.loss
        margin = self.sharpness * jnp.sign(advantage) * (gain[..., 0] - gain[..., 1])
        metrics = {"preferred": (margin > 0.0).mean(), "preference_margin": margin.mean()}
        return -jax.nn.log_sigmoid(margin).mean(), ratio_metrics(old.loss - new.loss, 1.0) | metrics
