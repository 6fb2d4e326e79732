"""Flow policies whose sampler is noisy at every step: a chain of Gaussian decisions with an exact likelihood.

The trace is the path; an objective sees its scores, one -log p per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds import Transitions, constant_noise, ddim, marginal_preserving, slope
from dipod_jax.checks import Checked
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.exact_flow import PathAndDraws
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Evidence, Params, Scores, Steps, Trace, make_scores


@dataclass(frozen=True)
class ChainOptions(FlowOptions):
    """A flow-matching policy that acts by Gaussian steps."""

    has_steps: ClassVar[bool] = True


@POLICIES.register("noisy-flow")
@dataclass(frozen=True)
class NoisyFlowOptions(ChainOptions):
    """A flow-matching policy with the same Gaussian noise after every step of its sampler."""

    step_noise: float = 0.05
    """standard deviation of the noise after each step, > 0, in units of the pre-tanh action"""

    def validate(self) -> None:
        super().validate()
        Checked(self, "policy").positive("step_noise")

    def build(self, observation_size: int, action_size: int) -> FlowSdePolicy:
        transitions = lambda times: constant_noise(times, std=self.step_noise)
        return FlowSdePolicy(self, observation_size, action_size, transitions)


@POLICIES.register("flow-sde")
@dataclass(frozen=True)
class FlowSdeOptions(ChainOptions):
    """A flow-matching policy that acts by the SDE with the same marginals as its flow."""

    # The score is made of v(x_k, t_k); with the velocity at the middle a step takes back less than its noise adds.
    samplers: ClassVar[tuple[str, ...]] = ("euler",)

    noise_level: float = 0.7
    """s_t / sqrt(t / (1 - t)), the SDE's diffusion, > 0"""

    def validate(self) -> None:
        super().validate()
        check = Checked(self, "policy")
        check.positive("noise_level")
        check.number("num_steps", low=2)

    def build(self, observation_size: int, action_size: int) -> FlowSdePolicy:
        transitions = lambda times: marginal_preserving(times, level=self.noise_level)
        return FlowSdePolicy(self, observation_size, action_size, transitions)


@POLICIES.register("ddim-flow")
@dataclass(frozen=True)
class DdimFlowOptions(ChainOptions):
    """A flow-matching policy that acts by DDIM's steps."""

    samplers: ClassVar[tuple[str, ...]] = ("euler",)  # x0_hat and eps_hat are made of v(x_k, t_k)

    eta: float = 1.0
    """fraction of the ancestral sampler's noise, 0 <= eta <= 1"""
    noise_floor: float = 0.05
    """smallest standard deviation of a step, which is that of the last step, > 0, in units of the pre-tanh action"""

    def validate(self) -> None:
        super().validate()
        check = Checked(self, "policy")
        check.number("eta", high=1.0)
        check.positive("noise_floor")

    def build(self, observation_size: int, action_size: int) -> FlowSdePolicy:
        transitions = lambda times: ddim(times, eta=self.eta, floor=self.noise_floor)
        return FlowSdePolicy(self, observation_size, action_size, transitions)


class FlowSdePolicy(FlowPolicy):
    """pi(x_0 .. x_K | obs) = N(x_0; 0, I) prod_k N(x_{k+1}; a_k x_k + b_k v_k, std_k^2 I); the action is x_K.

    v_k is the velocity of the sampler's step (`bounds.slope`). Zero noise gives the deterministic path. The bound is
    the CFM loss of the action: it bounds the likelihood of the flow, not of the chain.
    """

    score_name = "step_negative_log_prob"

    def __init__(
        self,
        options: FlowOptions,
        observation_size: int,
        action_size: int,
        transitions: Callable[[jax.Array], Transitions],
    ):
        super().__init__(options, observation_size, action_size)
        self.noise_shape = (options.num_steps + 1, action_size)
        self.transitions = transitions(self.times)
        self.chain = self

    def step(
        self, params: Params, obs: jax.Array, x: jax.Array, t: jax.Array, t_next: jax.Array, coefficients: Transitions
    ) -> Steps:
        """The distribution of the next state for obs (..., O), x (..., d) and times and coefficients (...): move
        (..., d), std (..., 1)."""
        a, b, std = (c[..., None] for c in coefficients)
        velocity = slope(lambda y, s: self.velocity(params, obs, y, s), x, t, t_next, method=self.method)
        return Steps((a - 1.0) * x + b * velocity, jnp.broadcast_to(std, (*x.shape[:-1], 1)))

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Action (..., d) and path (..., K+1, d), for noise (..., K+1, d): first of the start, then of each step."""

        def advance(x, inputs):
            z, *at = inputs
            move, std, _ = self.step(params, obs, x, *at)
            return x + move + std * z, x

        z = jnp.moveaxis(noise[..., 1:, :], -2, 0)
        action, states = jax.lax.scan(advance, noise[..., 0, :], (z, self.times[:-1], self.times[1:], self.transitions))
        return action, jnp.concatenate([jnp.moveaxis(states, 0, -2), action[..., None, :]], axis=-2)

    def steps(self, params: Params, obs: jax.Array, path: jax.Array) -> Steps:
        """The K decisions along a path (..., K+1, d), all at once: (..., K, d)."""
        return self.step(
            params, obs[..., None, :], path[..., :-1, :], self.times[:-1], self.times[1:], self.transitions
        )

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> Evidence:
        """The path, and the draws of the bound."""
        del params
        return PathAndDraws(trace, self.sample_draws(key, obs.shape[:-1]))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """(..., K) -log N(x_{k+1}; mu_k, std_k^2 I) in nats, summed over dimensions; the start x_0 is left out, since
        its density has no parameters.

        The action is the path's end; the bound is its CFM loss.
        """
        steps = self.steps(params, obs, evidence.path)
        bound, field = self.bound(params, obs, action, evidence.draws)
        return make_scores(path_losses(steps, evidence.path), bound=bound, field=field)._replace(steps=steps)

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: Trace) -> tuple[jax.Array, jax.Array]:
        """The base noise that the noise-free sampler maps to the action, and the action."""
        del trace
        return self.pre_image(params, obs, action), action


def path_losses(steps: Steps, path: jax.Array) -> jax.Array:
    """(..., K) -log N(x_{k+1}; x_k + move_k, diag(std_k)^2) along a path (..., K+1, d)."""
    z = (path[..., 1:, :] - path[..., :-1, :] - steps.move) / steps.std
    log_std = jnp.broadcast_to(jnp.log(steps.std), z.shape)
    return (0.5 * jnp.square(z) + log_std + 0.5 * np.log(2.0 * np.pi)).sum(-1)
