"""The types that packages exchange. Arrays only; the axis order is (T, B, ...): time, environments."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Params: TypeAlias = Any
"""A network's parameters: a pytree of arrays whose structure only the network knows."""
Trace: TypeAlias = Any
"""How a policy drew an action, such as the base noise or the sampler's path; axes (...)."""
Evidence: TypeAlias = Any
"""What a policy needs to score an action, besides the action itself, such as (t, eps) draws: computed once with the
acting parameters and kept for all updates; leading axes (...)."""
Metrics: TypeAlias = dict[str, jax.Array]
"""Scalars by name."""
# Beyond this MuJoCo takes a position, velocity or acceleration for an error. Its square is still finite.
LARGEST = 1e10


def is_measured(x: jax.Array) -> jax.Array:
    """(...) bool: a number of at most 10^10; false of nan."""
    return jnp.abs(x) <= LARGEST


def is_key(leaf: Any) -> bool:
    """Whether an array, or what stands for its shape, is of random keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class Steps(NamedTuple):
    """The Gaussian decisions that an action is made of: N(x_k + move_k, diag(std_k)^2) for the next state."""

    move: jax.Array
    """(..., K, d) mean of the next state minus the current state"""
    std: jax.Array
    """(..., K, d), or (..., K, 1) if it is the same for all dimensions"""
    weight: jax.Array | None = None
    """(..., K) of a mean where all are estimates of one decision; None for a path, which takes K steps"""

    def total(self, values: jax.Array) -> jax.Array:
        """(...) the sum over an action's decisions of what each has, (..., K)."""
        return (values if self.weight is None else self.weight * values).sum(-1)

    def divergence(self, other: Steps) -> jax.Array:
        """(..., K) KL(self || other) of each step in nats; the states are the same in both."""
        ratio = jnp.broadcast_to(self.std / other.std, self.move.shape)
        apart = jnp.square((self.move - other.move) / other.std)
        return 0.5 * (jnp.square(ratio) - 1.0 - 2.0 * jnp.log(ratio) + apart).sum(-1)


class TokenScores(NamedTuple):
    """The terms whose sums are the scores of a policy over tokens, for objectives that sum them differently."""

    log_prob: jax.Array
    """(..., N, L) of each token under each draw's mask"""
    coefficient: jax.Array
    """(..., N, L) its factor in the draw's ELBO; 0 where it is not scored"""
    scale: jax.Array
    """(...) factor of the scores on that ELBO: 1, or 1 / L"""


class FieldScores(NamedTuple):
    """The velocity field of a flow at the draws of its bound, for terms that compare fields or look at predictions."""

    weight: jax.Array
    """(..., N) of the draws in a mean over them, summing to 1"""
    time: jax.Array
    """(..., N) time of each draw in [0, 1]; 1 is noise"""
    velocity: jax.Array
    """(..., N, d) predicted velocity at each draw"""
    denoised: jax.Array
    """(..., N, d) the action that the network predicts from each draw, x_t - t v"""

    def mean(self, values: jax.Array) -> jax.Array:
        """(...) weighted mean over the draws of what each has, (..., N)."""
        return (self.weight * values).sum(-1)


class Scores(NamedTuple):
    """How likely actions are under a policy: one surrogate of -log pi per draw, or one -log p per step."""

    loss: jax.Array
    """(..., N) lower means more likely; N = 1 for an exact likelihood."""
    weight: jax.Array
    """(N,) weights of the draws in a mean over them, summing to 1."""
    known: jax.Array
    """(..., N) bool; an unknown score is 0 and is ignored everywhere."""
    bound: jax.Array | None = None
    """(...) negative bound of the log-likelihood, averaged over draws: what DiPOD keeps tight; None if there is
    none."""
    upper: jax.Array | None = None
    """(...) negative upper bound of the log-likelihood; None if the policy has no proven one."""
    steps: Steps | None = None
    """the Gaussian steps that made the action, in order; None for other policies"""
    penalty: jax.Array | None = None
    """(...) an extra term of the family, weighted by the objective that trains it; None if there is none."""
    field: FieldScores | None = None
    """for flows; its draws are those of the bound, which need not be those of the loss"""
    tokens: TokenScores | None = None
    """for policies over tokens"""

    def kept(self) -> Scores:
        """The part of the scores of a fixed policy that an update keeps; the draws' weights, which have no batch axis,
        are the same for all policies."""
        steps = None if self.steps is None else self.steps._replace(weight=None)
        field = None if self.field is None else self.field._replace(weight=None, time=None, denoised=None)
        return self._replace(weight=None, bound=None, steps=steps, penalty=None, field=field)

    def mean(self) -> jax.Array:
        """(...) weighted mean loss over the draws."""
        return self.loss @ self.weight


def make_scores(
    loss: jax.Array,
    *,
    weight: jax.Array | None = None,
    bound: jax.Array | None = None,
    field: FieldScores | None = None,
) -> Scores:
    """Scores from losses (..., N), with equal weights if none are given; NaN marks an unknown score."""
    known = ~jnp.isnan(loss)
    loss = jnp.where(known, loss, 0.0)
    weight = jnp.full(loss.shape[-1:], 1.0 / loss.shape[-1], loss.dtype) if weight is None else weight
    return Scores(loss, weight, known, bound, field=field)


def matched(new: Scores, old: Scores) -> tuple[Scores, Scores]:
    """Both scores, with loss 0 where either is unknown: there the ratio is 1 and the gradient 0."""
    known = new.known & old.known
    drop = lambda scores: scores._replace(loss=jnp.where(known, scores.loss, 0.0), known=known)
    return drop(new), drop(old)


class Transition(NamedTuple):
    """One step of B environments, or with a leading T a rollout."""

    obs: jax.Array  # (B, O) as the environment gave it
    next_obs: jax.Array  # (B, O) before any auto-reset
    action: jax.Array  # (B, d) as stored, before the policy's squash
    trace: Trace  # (B, ...)
    reward: jax.Array  # (B,)
    terminated: jax.Array  # (B,) bool
    truncated: jax.Array  # (B,) bool
    episode_return: jax.Array  # (B,), where an episode ended
    episode_length: jax.Array  # (B,) int32, 0 where none ended
