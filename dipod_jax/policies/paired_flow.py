"""A flow policy that scores an action together with another action in the same state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.bounds import Draws
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Evidence, Params, Scores, make_scores


@POLICIES.register("paired-flow")
@dataclass(frozen=True)
class PairedFlowOptions(FlowOptions):
    """A flow-matching policy that scores each action together with another one drawn in the same state."""

    def build(self, observation_size: int, action_size: int) -> PairedFlowPolicy:
        return PairedFlowPolicy(self, observation_size, action_size)


class RivalAndDraws(NamedTuple):
    """Evidence of one action."""

    rival: jax.Array  # (..., d) another action of the acting policy in the same state
    draws: Draws  # (..., N) at which both are scored


class PairedFlowPolicy(FlowPolicy):
    """A flow policy with scores (..., 2): of the action taken and of a rival.

    The rival is drawn at the start of an update with the acting parameters, independent noise and the same exploration;
    it is never executed. Its expected advantage is 0, so the sign of the action's advantage tells which is better.
    """

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: jax.Array) -> Evidence:
        """The rival and the draws."""
        noise_key, action_key, draws_key = jax.random.split(key, 3)
        rival, _ = self.sample(params, obs, jax.random.normal(noise_key, (*obs.shape[:-1], *self.noise_shape)))
        return RivalAndDraws(self.options.explore(action_key, rival), self.sample_draws(draws_key, obs.shape[:-1]))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """(..., 2) mean CFM loss of the action and of its rival at the same draws; the mean, the bound and the field
        are those of the action."""
        bound, field = self.bound(params, obs, action, evidence.draws)
        rival = self.cfm_loss(params, obs, evidence.rival, evidence.draws) @ self.draw_weights
        return make_scores(jnp.stack([bound, rival], -1), weight=jnp.array([1.0, 0.0]), bound=bound, field=field)
