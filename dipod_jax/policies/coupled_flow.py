"""A flow of two halves that update each other: invertible in closed form, so its likelihood costs no Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds import Draws, standard_normal_log_prob
from dipod_jax.checks import Checked
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Params, Scores, make_scores


@POLICIES.register("coupled-flow")
@dataclass(frozen=True)
class CoupledFlowOptions(FlowOptions):
    """A flow over pairs of actions, of which the mean is executed. `sampler` is that of the ordinary flow that the
    drift meter measures; the coupled sampler offers no choice."""

    num_steps: int = 5
    """K, steps of the sampler, >= 1; each evaluates the network twice"""
    mixing: float = 0.95
    """p, the share of itself that each half keeps when a step mixes them, in [.5, 1]; at 1 only the velocities couple
    the halves; the inverse magnifies rounding errors by p^-2 per step"""

    def validate(self) -> None:
        super().validate()
        Checked(self, "policy").number("mixing", low=0.5, high=1.0)

    def build(self, observation_size: int, action_size: int) -> CoupledFlowPolicy:
        return CoupledFlowPolicy(self, observation_size, action_size)


class PairAndNoise(NamedTuple):
    """Evidence of one action."""

    pair: jax.Array  # (..., 2, d) the halves whose mean it is
    fresh: jax.Array  # (..., 2, d) noise of another pair in the same state, for the penalty
    draws: Draws  # of the bound


class CoupledFlowPolicy(FlowPolicy):
    """(z, y) = f(w), w ~ N(0, I_2d), the action is (z + y) / 2 (GenPO, arXiv 2505.18763), pre-tanh.

    A step of f, with dt < 0 and one network: z' = z + dt v(y, t), y' = y + dt v(z', t), then z = p z' + (1 - p) y' and
    y = p y' + (1 - p) z with the new z. The first two are shears, of determinant 1, and the mixing has determinant p^2
    per dimension, so log|det df| = 2 d K log p whatever the parameters.
    """

    score_name = "negative_log_prob_of_pair"

    def __init__(self, options: CoupledFlowOptions, observation_size: int, action_size: int):
        super().__init__(options, observation_size, action_size)
        self.noise_shape = (2, action_size)
        self.mixing = options.mixing
        self.log_det = 2.0 * action_size * options.num_steps * float(np.log(options.mixing))

    def forward(self, params: Params, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """f: noise (..., 2, d) to a pair (..., 2, d)."""
        p = self.mixing

        def advance(halves, times):
            z, y = halves
            t, dt = times[0], times[1] - times[0]
            z = z + dt * self.velocity(params, obs, y, t)
            y = y + dt * self.velocity(params, obs, z, t)
            z = p * z + (1.0 - p) * y
            return (z, p * y + (1.0 - p) * z), None

        halves, _ = jax.lax.scan(advance, (noise[..., 0, :], noise[..., 1, :]), (self.times[:-1], self.times[1:]))
        return jnp.stack(halves, axis=-2)

    def inverse(self, params: Params, obs: jax.Array, pair: jax.Array) -> jax.Array:
        """f^-1: a pair (..., 2, d) to its noise (..., 2, d), up to rounding."""
        p = self.mixing

        def retreat(halves, times):
            z, y = halves
            t, dt = times[0], times[1] - times[0]
            y = (y - (1.0 - p) * z) / p
            z = (z - (1.0 - p) * y) / p
            y = y - dt * self.velocity(params, obs, z, t)
            return (z - dt * self.velocity(params, obs, y, t), y), None

        start = pair[..., 0, :], pair[..., 1, :]
        halves, _ = jax.lax.scan(retreat, start, (self.times[:-1], self.times[1:]), reverse=True)
        return jnp.stack(halves, axis=-2)

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Action (..., d) and the pair (..., 2, d) whose mean it is, for noise (..., 2, d)."""
        pair = self.forward(params, obs, noise)
        return pair.mean(-2), pair

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: jax.Array) -> PairAndNoise:
        """The pair, noise for another pair, and the draws of the bound."""
        del params
        fresh_key, draws_key = jax.random.split(key)
        return PairAndNoise(
            trace, jax.random.normal(fresh_key, trace.shape), self.sample_draws(draws_key, obs.shape[:-1])
        )

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: PairAndNoise) -> Scores:
        """(..., 1) -log pi(z, y) = -log N(f^-1(z, y); 0, I) + 2 d K log p, in nats. It is the density of the pair, not
        of its mean; the KL of the mean is at most that of the pair.

        The penalty is |z - y| of a fresh pair: if the halves drift apart, the pair says nothing about the action. The
        bound is the CFM loss of the action under the ordinary flow of the same field.
        """
        noise = self.inverse(params, obs, evidence.pair)
        log_prob = standard_normal_log_prob(noise).sum(-1) - self.log_det
        z, y = jnp.moveaxis(self.forward(params, obs, evidence.fresh), -2, 0)
        # The root has no derivative at z = y.
        apart = jnp.sqrt(jnp.square(z - y).sum(-1) + 1e-12)
        bound, field = self.bound(params, obs, action, evidence.draws)
        return make_scores(-log_prob[..., None], bound=bound, field=field)._replace(penalty=apart)

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The base noise that the ordinary flow of the same field maps to the action, and the action."""
        del trace
        return self.pre_image(params, obs, action), action
