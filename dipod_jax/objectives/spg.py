"""Sandwiched policy gradient: raise a lower bound where A > 0, lower an upper bound elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import chex
import jax
import jax.numpy as jnp

from dipod_jax.bounds.eubo import eubo_like
from dipod_jax.bounds.mask_draws import estimated_eubo_per_token
from dipod_jax.checks import Checked
from dipod_jax.objectives.base import Objective, clamp_straight_through, exp_bounded, ratio_metrics, register_objective
from dipod_jax.objectives.ppo import ppo_clip
from dipod_jax.types import Metrics, Scores


@register_objective("spg")
@dataclass(frozen=True)
class Spg(Objective):
    """Sandwiched policy gradient (SPG, arXiv 2510.09541, eqs. 5-8): an action's surrogate S is the ELBO where A > 0
    and the mixture `mix` EUBO + (1 - mix) ELBO elsewhere, so that a bad action cannot become unlikely just because its
    ELBO is loose.

    The EUBO is the policy's own upper bound if it has one (`Scores.upper`). On tokens it is the paper's, per token from
    the masks of the scores, without its constant. Otherwise it is Renyi's over the draws (`bounds.eubo_like`), which
    lies above the ELBO but is not proven to lie above log pi. The last two are biased low with few draws: use 8 or
    more. The paper has no ratio and no clip (`--objective.ratio none`), which calls for a single epoch and small steps;
    the default reuses a rollout as PPO does.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"objective.clip_epsilon": 0.15, "policy.num_draws": 8, "beta": 0.05},
    }

    eubo_order: float = 1.5
    """order b of the EUBO, > 0. Over draws it tends to the ELBO as b goes to 0; over tokens it is guaranteed to be an
    upper bound once b is at least the number of blanks. Ignored if the policy has an upper bound of its own"""
    mix: float = 0.5
    """omega, the EUBO's share of the surrogate where A <= 0, from 0 (the ELBO alone) to 1"""
    ratio: Literal["clipped", "none"] = "clipped"
    """PPO's clip on exp(S_new - S_old), for several epochs; or S itself, as in the paper"""
    clip_epsilon: float = 0.05
    """half width of the ratio's trust region, > 0"""
    log_ratio_clip: float | None = 3.0
    """straight-through bound on |S_new - S_old| before the exponential, > 0; none: unbounded"""

    def validate(self) -> None:
        check = Checked(self, "objective")
        check.choices()
        check.positive("eubo_order", "clip_epsilon", "log_ratio_clip")
        check.number("mix", high=1.0)

    def __call__(
        self, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """-mean A S, or -mean min(rho A, clip(rho) A) with rho = exp(S_new - S_old).

        The score of a draw is minus its loss, in the reduction set by the policy's options; order, mix and clip are
        meaningful only together with it. The selector is A > 0, as in the authors' code; at A = 0 it makes no
        difference.

        Args:
            new, old: (..., N) losses on the same draws; S_old is built like S_new. A sample with an unknown draw is
                ignored.
            advantage: (...).
        """
        del reference
        chex.assert_equal_shape([new.loss, old.loss])
        chex.assert_shape(new.loss, (*advantage.shape, None))
        advantage = jnp.where(new.known.all(-1), advantage, 0.0)
        raised = advantage > 0.0
        lower, eubo = -new.mean(), self._eubo(new)
        surrogate = self._surrogate(lower, eubo, raised)
        change = surrogate - self._surrogate(-old.mean(), self._eubo(old), raised)
        if self.ratio == "none":
            loss = -(advantage * surrogate).mean()
        else:
            bounded = change
            if self.log_ratio_clip is not None:
                bounded = clamp_straight_through(change, -self.log_ratio_clip, self.log_ratio_clip)
            loss = ppo_clip(exp_bounded(bounded), advantage, self.clip_epsilon).mean()
        return loss, {"sandwich_width": (eubo - lower).mean(), **ratio_metrics(change, self.clip_epsilon)}

    def _surrogate(self, lower: jax.Array, eubo: jax.Array, raised: jax.Array) -> jax.Array:
        """(...) S."""
        return jnp.where(raised, lower, self.mix * eubo + (1.0 - self.mix) * lower)

    def _eubo(self, scores: Scores) -> jax.Array:
        """(...) the upper bound that the scores allow."""
        if scores.upper is not None:
            return -scores.upper
        if scores.tokens is not None:
            log_prob, coefficient, scale = scores.tokens
            return scale * estimated_eubo_per_token(log_prob, coefficient, scores.weight, self.eubo_order)
        return eubo_like(-scores.loss, order=self.eubo_order, weights=scores.weight)
