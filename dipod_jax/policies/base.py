"""What the learner, the meter and the toys ask of any policy, and the options that a policy family is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax

from dipod_jax.bounds import CfmSpec, Draws, Transitions
from dipod_jax.checks import Checked, require
from dipod_jax.registry import Registry
from dipod_jax.types import Evidence, Params, Scores, Steps, Trace


class Policy(Protocol):
    """An action distribution that is sampled by pushing base noise N(0, I) through a network.

    The trainer knows no more of it than this: an action is a function of observation and base noise, and a score
    stands for its negative log-likelihood, one value per draw (a likelihood is the case N = 1).
    """

    action_size: int
    noise_shape: tuple[int, ...]  # of the base noise of one action
    score_name: str  # what the mean score is called in the metrics

    @property
    def field(self) -> FieldPolicy | None:
        """Itself, where it is the flow of a velocity field."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Parameters."""
        ...

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Action (..., d) before the squash, for obs (..., O) and base noise (..., *noise_shape), and how it came
        about."""
        ...

    def squash(self, action: jax.Array) -> jax.Array:
        """What the environment is given of an action."""
        ...

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> Evidence:
        """What `score` needs of actions besides themselves, made once under the acting parameters; axes (...)."""
        ...

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """Surrogates of -log pi(action | obs)."""
        ...

    def entropy(self, params: Params, obs: jax.Array, noise: jax.Array) -> jax.Array | None:
        """(...) single-sample estimate of the squashed policy's entropy in nats; None where the family has none."""
        ...


class FieldPolicy(Policy, Protocol):
    """The flow of a velocity field under a K-step sampler: what the drift meter measures and self-distillation fits."""

    times: jax.Array  # (K+1,) the sampler's grid, 1 to 0
    cfm: CfmSpec  # which CFM loss it is trained by
    method: str  # of the sampler, one of `bounds.METHODS`

    def velocity(self, params: Params, obs: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) velocity at x_t (..., d) and t (...) for obs (..., O)."""
        ...

    def sample_draws(self, key: jax.Array, batch_shape: tuple[int, ...]) -> Draws:
        """(t, eps) draws of the CFM loss."""
        ...

    @property
    def chain(self) -> ChainPolicy | None:
        """Itself, where it acts by Gaussian steps instead of the deterministic sampler."""
        ...

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: Trace) -> tuple[jax.Array, jax.Array]:
        """(..., d) each: a base noise and where the deterministic sampler carries it, on behalf of an action taken by
        these parameters. Where the policy acts otherwise, it is the action's pre-image under that sampler, NaN where
        there is none."""
        ...

    def cfm_loss(self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws) -> jax.Array:
        """(..., N) CFM loss of each draw."""
        ...


class ChainPolicy(FieldPolicy, Protocol):
    """A policy that acts by a chain of Gaussian steps along its velocity field; its trace is the path (..., K+1, d)."""

    transitions: Transitions  # coefficients of the K steps

    def step(
        self, params: Params, obs: jax.Array, x: jax.Array, t: jax.Array, t_next: jax.Array, coefficients: Transitions
    ) -> Steps:
        """The distribution of the state after x (..., d)."""
        ...

    def steps(self, params: Params, obs: jax.Array, path: jax.Array) -> Steps:
        """Those of all K steps along a path (..., K+1, d)."""
        ...


class ConditionalPolicy(FieldPolicy, Protocol):
    """A policy scored by the density of an action given its base noise, without the flow's Jacobian on the way."""

    def given_noise(
        self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence
    ) -> tuple[Params, Callable[[Params], jax.Array], Callable[[Params], jax.Array]]:
        """The velocity's parameters and two functions of them to log p (...) given the base noise: as scored, and
        exact."""
        ...


@dataclass(frozen=True)
class PolicyOptions:
    """Options of a policy family; `build` makes the policy. A subclass under `POLICIES.register(name)` in a file of
    this package is a new family.
    """

    name: ClassVar[str]
    """what an objective calls the family"""
    has_bound: ClassVar[bool] = False
    """whether its scores come with a bound, which DiPOD can keep tight"""
    has_velocity: ClassVar[bool] = False
    """whether its scores come with the velocities of their draws"""
    has_steps: ClassVar[bool] = False
    """whether its actions are made by Gaussian steps, which its scores come with"""
    has_entropy: ClassVar[bool] = False
    """whether its entropy can be estimated"""
    has_field: ClassVar[bool] = False
    """whether it is the flow of a velocity field, which the drift meter measures and self-distillation fits"""

    hidden_sizes: tuple[int, ...] = (32, 32, 32, 32)
    """widths of the hidden layers, each >= 1"""
    noise_correlation: float = 0.0
    """AR(1) coefficient of the base noise between steps, 0 <= rho < 1; the marginal stays N(0, I), and every likelihood
    here is that of an action under this marginal, not given the noise of the step before"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        Checked(self, "policy").choices()
        check_hidden_sizes("policy.hidden-sizes", self.hidden_sizes)
        rho = self.noise_correlation
        require(0.0 <= rho < 1.0, "policy.noise-correlation", rho, "at least 0 and less than 1")

    def check_exact_action(self) -> None:
        """Refuse options under which the stored action is not as the policy drew it, with one line."""

    def explore(self, key: jax.Array, action: jax.Array) -> jax.Array:
        """The action (..., d) that is taken and stored in training, for the one that was drawn; here the same."""
        del key
        return action

    def build(self, observation_size: int, action_size: int) -> Policy:
        """The policy."""
        raise NotImplementedError


POLICIES: Registry[PolicyOptions] = Registry("policy")


def check_hidden_sizes(flag: str, sizes: tuple[int, ...]) -> None:
    """Refuse widths of layers of which one is less than 1, or none at all."""
    require(len(sizes) >= 1 and min(sizes) >= 1, flag, sizes, "one or more sizes >= 1")
