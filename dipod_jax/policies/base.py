"""The interface that the learner and the drift meter need from a policy, and the options that a policy family is built
from."""

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

    This is all the trainer knows: an action is a function of the observation and base noise, and a score stands for its
    negative log-likelihood, with one value per draw (an exact likelihood is the case N = 1).
    """

    action_size: int
    noise_shape: tuple[int, ...]  # of the base noise of one action
    score_name: str  # what the mean score is called in the metrics

    @property
    def field(self) -> FieldPolicy | None:
        """The policy itself if it is the flow of a velocity field, else None."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Parameters."""
        ...

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Action (..., d) before the squash, for obs (..., O) and base noise (..., *noise_shape), and the trace: how it
        was made."""
        ...

    def squash(self, action: jax.Array) -> jax.Array:
        """The action as the environment takes it."""
        ...

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> Evidence:
        """What `score` needs besides the actions, computed once with the acting parameters; leading axes (...)."""
        ...

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """Scores: surrogates of -log pi(action | obs)."""
        ...

    def entropy(self, params: Params, obs: jax.Array, noise: jax.Array) -> jax.Array | None:
        """(...) single-sample estimate of the squashed policy's entropy in nats; None if the family has none."""
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
        """The policy itself if it acts by Gaussian steps instead of the deterministic sampler, else None."""
        ...

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: Trace) -> tuple[jax.Array, jax.Array]:
        """(..., d) each: base noise, and the point to which the deterministic sampler carries it, for an action taken
        with these parameters. If the policy acts by other means, the noise is the action's pre-image under that
        sampler, NaN if there is none."""
        ...

    def cfm_loss(self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws) -> jax.Array:
        """(..., N) CFM loss of each draw."""
        ...


class ChainPolicy(FieldPolicy, Protocol):
    """A policy that acts by a chain of Gaussian steps along its velocity field; the trace is the path (..., K+1, d)."""

    transitions: Transitions  # coefficients of the K steps

    def step(
        self, params: Params, obs: jax.Array, x: jax.Array, t: jax.Array, t_next: jax.Array, coefficients: Transitions
    ) -> Steps:
        """The distribution of the state that follows x (..., d)."""
        ...

    def steps(self, params: Params, obs: jax.Array, path: jax.Array) -> Steps:
        """The distributions of all K steps along a path (..., K+1, d)."""
        ...


class ConditionalPolicy(FieldPolicy, Protocol):
    """A policy scored by the density of an action given its base noise, which needs no Jacobian of the flow."""

    def given_noise(
        self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence
    ) -> tuple[Params, Callable[[Params], jax.Array], Callable[[Params], jax.Array]]:
        """The velocity's parameters, and two functions of them that return log p (...) given the base noise: as scored,
        and exact."""
        ...


@dataclass(frozen=True)
class PolicyOptions:
    """Options of a policy family; `build` makes the policy. A subclass under `POLICIES.register(name)` in a file of
    this package is a new family.
    """

    name: ClassVar[str]
    """the name by which an objective selects the family"""
    has_bound: ClassVar[bool] = False
    """whether its scores come with a bound, which DiPOD can keep tight"""
    has_steps: ClassVar[bool] = False
    """whether its actions are made by Gaussian steps, which are part of its scores"""
    has_entropy: ClassVar[bool] = False
    """whether its entropy can be estimated"""
    has_field: ClassVar[bool] = False
    """whether it is the flow of a velocity field, which the drift meter measures and self-distillation fits"""

    hidden_sizes: tuple[int, ...] = (32, 32, 32, 32)
    """widths of the hidden layers, each >= 1"""
    noise_correlation: float = 0.0
    """AR(1) coefficient of the base noise between steps, 0 <= rho < 1; the marginal stays N(0, I), and likelihoods are
    those of an action under this marginal, not conditional on the noise of the previous step"""

    def validate(self) -> None:
        """Reject options that are out of range, with one line."""
        Checked(self, "policy").choices()
        check_hidden_sizes("policy.hidden-sizes", self.hidden_sizes)
        rho = self.noise_correlation
        require(0.0 <= rho < 1.0, "policy.noise-correlation", rho, "at least 0 and less than 1")

    def offers(self, need: str | None) -> bool:
        """Whether the scores hold what a regulariser `needs`."""
        return need is None or getattr(self, f"has_{need}")

    def check_exact_action(self) -> None:
        """Reject, with one line, options under which the stored action differs from the one the policy drew."""

    def explore(self, key: jax.Array, action: jax.Array) -> jax.Array:
        """The action (..., d) that is taken and stored in training, given the one that was drawn; here the same."""
        del key
        return action

    def build(self, observation_size: int, action_size: int) -> Policy:
        """The policy."""
        raise NotImplementedError


POLICIES: Registry[PolicyOptions] = Registry("policy")


def check_hidden_sizes(flag: str, sizes: tuple[int, ...]) -> None:
    """Reject an empty list of layer widths, and widths below 1."""
    require(len(sizes) >= 1 and min(sizes) >= 1, flag, sizes, "one or more sizes >= 1")
