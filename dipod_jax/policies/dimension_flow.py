"""A flow policy scored by one loss per dimension, as a language model is scored by one per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.bounds import Draws, interpolate
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Evidence, Params, Scores, make_scores

COUPLED_TIMES = (0.2, 0.8)  # of the pair, as coupled-GRPO's share of masked tokens


@POLICIES.register("dimension-flow")
@dataclass(frozen=True)
class DimensionFlowOptions(FlowOptions):
    """A flow-matching policy whose score is the velocity error in each dimension; its draws are used for the bound
    only."""

    passes: Literal["one-step", "coupled"] = "one-step"
    """where the errors are measured: one-step, at t = 1 only, where the network sees nothing of the action (d1's
    estimate); or coupled, half the sum over t = 1 and a pair t, 1 - t with the same noise, t ~ U(.2, .8)
    (coupled-GRPO's)"""

    def build(self, observation_size: int, action_size: int) -> DimensionFlowPolicy:
        return DimensionFlowPolicy(self, observation_size, action_size)


class PassesAndDraws(NamedTuple):
    """Evidence of one action."""

    passes: Draws  # (..., 1 or 3) of the scores
    draws: Draws  # (..., N) of the bound


class DimensionFlowPolicy(FlowPolicy):
    """A flow policy with d scores per action. Their sum is neither a likelihood nor a bound of one: at t = 1 the
    velocity is fitted by the mean action alone. `--policy.loss-form` and `--policy.reduction` apply to the bound
    only."""

    score_name = "dimension_loss"
    options: DimensionFlowOptions

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: jax.Array) -> Evidence:
        """The draws for the passes and for the bound."""
        del params, trace
        passes_key, draws_key = jax.random.split(key)
        batch_shape = obs.shape[:-1]
        return PassesAndDraws(self.sample_passes(passes_key, batch_shape), self.sample_draws(draws_key, batch_shape))

    def sample_passes(self, key: jax.Array, batch_shape: tuple[int, ...]) -> Draws:
        """One draw at t = 1, and for `coupled` two more, at t and 1 - t, that share another noise."""
        time_key, eps_key = jax.random.split(key)
        eps = jax.random.normal(eps_key, (*batch_shape, 2, self.action_size))
        end = jnp.ones((*batch_shape, 1))
        if self.options.passes == "one-step":
            return Draws(end, eps[..., :1, :])
        t = jax.random.uniform(time_key, (*batch_shape, 1), minval=COUPLED_TIMES[0], maxval=COUPLED_TIMES[1])
        return Draws(jnp.concatenate([end, t, 1.0 - t], -1), jnp.concatenate([eps, eps[..., 1:, :]], -2))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """(..., d) squared velocity error of each dimension at t = 1, or half its sum over the three passes."""
        passes = evidence.passes
        velocity = self.velocity(params, obs[..., None, :], interpolate(action, passes.t, passes.eps), passes.t)
        squares = jnp.square(velocity - (passes.eps - action[..., None, :]))  # (..., 1 or 3, d)
        loss = squares.sum(-2) * (1.0 if self.options.passes == "one-step" else 0.5)
        bound, field = self.bound(params, obs, action, evidence.draws)
        return make_scores(loss, bound=bound, field=field)
