"""wd1: weighted likelihood of good samples minus that of bad ones, without a ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax

from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, register_objective
from dipod_jax.objectives.dmpo import contrast, weighted_loss
from dipod_jax.types import Metrics, Scores


@register_objective("wd1")
@dataclass(frozen=True)
class Wd1(Objective):
    """wd1: sum (w+ - w-) l_new with softmax weights of A and of -A; no ratio, no old policy, no KL (arXiv 2507.08838).

    The softmax is over the minibatch (in its code, over the group of one process). On actions it equals `dmpo` at
    temperature 1 without a reference. On tokens it uses d1's one-step sequence scores, summed over tokens, and is
    called once for each prompt's group of answers.
    """

    trust_region: ClassVar[tuple[str, ...]] = ("negative_loss_clamp",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"objective.negative_loss_clamp": 3.0} for name in ("paper", "cpu")
    }

    weights: Literal["both", "positive"] = "both"
    """both kinds of weights, or only those of good samples"""
    negative_loss_clamp: float | None = None
    """a sample with negative weight and a mean loss above this is ignored, > 0; none (the paper): no limit"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.positive("negative_loss_clamp")

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """sum_B (w+ - w-) mean_n l_new, w+ = softmax_B(A), w- = softmax_B(-A), both without gradient; with `both`,
        equal advantages give a loss of 0.

        Args:
            new: (..., N) losses; `old`, at the same draws, is used for metrics only.
            advantage: (...).
        """
        del reference
        good, bad = contrast(advantage, 0.0, 1.0)
        return weighted_loss(good - bad if self.weights == "both" else good, new, old, self.negative_loss_clamp)
