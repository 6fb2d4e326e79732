"""A flow policy scored by the exact likelihood of its sampler instead of by a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.bounds import Draws, integrate, log_prob_of_action
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Evidence, Params, Scores, Trace, make_scores

# A step of an update moves a path little: one or two corrections reach the tolerance, the rest is for stragglers.
NEWTON_ITERATIONS = 5
NEWTON_TOLERANCE = 1e-4


@POLICIES.register("exact-flow")
@dataclass(frozen=True)
class ExactFlowOptions(FlowOptions):
    """A flow-matching policy whose score is the exact likelihood of its sampler; its draws are used for the bound
    only."""

    def build(self, observation_size: int, action_size: int) -> ExactFlowPolicy:
        return ExactFlowPolicy(self, observation_size, action_size)


class PathAndDraws(NamedTuple):
    """Evidence of one action."""

    path: jax.Array  # (..., K+1, d) the sampler's states from base noise to action
    draws: Draws  # of the bound


class ExactFlowPolicy(FlowPolicy):
    """A flow policy whose score is -log pi(a | obs) (`bounds.log_prob_of_action`).

    The sampler is inverted under the current parameters by Newton's method, starting each step from the path that the
    action took when it was drawn. If no path is found, or the sampler folds space, the score is unknown.
    """

    score_name = "negative_log_prob"

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> Evidence:
        """The states from base noise to action, and the draws of the bound."""
        field = lambda x, t: self.velocity(params, obs, x, t)
        path = integrate(field, trace, self.times, method=self.options.sampler, return_path=True)
        return PathAndDraws(jnp.moveaxis(path, 0, -2), self.sample_draws(key, obs.shape[:-1]))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """(..., 1) -log pi of each action in nats, summed over its dimensions (the tanh cancels in ratios); the bound
        is the mean CFM loss."""
        flat = lambda x, rank: x.reshape(-1, *x.shape[x.ndim - rank :])
        exact = log_prob_of_action(
            self.velocity,
            params,
            flat(obs, 1),
            flat(action, 1),
            self.times,
            method=self.options.sampler,
            guess_path=jnp.moveaxis(flat(evidence.path, 2), 1, 0),
            max_iterations=NEWTON_ITERATIONS,
            tolerance=NEWTON_TOLERANCE,
        )
        bound, field = self.bound(params, obs, action, evidence.draws)
        return make_scores(-exact.log_prob.reshape(*action.shape[:-1], 1), bound=bound, field=field)
