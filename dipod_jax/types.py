"""What crosses the walls between rooms. Arrays only; axis order (T, B, ...) time, environments."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Params: TypeAlias = Any
"""A network's parameters: a pytree of arrays whose structure is the network's own business."""
Trace: TypeAlias = Any
"""What a policy remembers of how it drew an action, such as its base noise or the sampler's path; axes (...)."""
Evidence: TypeAlias = Any
"""What a policy's score needs of an action besides itself, made once under the acting parameters and kept for every
update on it, such as (t, eps) draws; leading axes (...)."""
Metrics: TypeAlias = dict[str, jax.Array]
"""Scalars by name."""


class Steps(NamedTuple):
    """The Gaussian decisions that an action is made of: N(x_k + move_k, diag(std_k)^2) for the next state."""

    move: jax.Array
    """(..., K, d) mean of the next state less the state it is taken from"""
    std: jax.Array
    """(..., K, d), or (..., K, 1) where all dimensions have the same"""

    def divergence(self, other: Steps) -> jax.Array:
        """(..., K) KL(self || other) of each step in nats; the states are the same in both."""
        ratio = jnp.broadcast_to(self.std / other.std, self.move.shape)
        apart = jnp.square((self.move - other.move) / other.std)
        return 0.5 * (jnp.square(ratio) - 1.0 - 2.0 * jnp.log(ratio) + apart).sum(-1)


class TokenScores(NamedTuple):
    """What the scores of a policy over tokens are sums of, for objectives that sum in another way."""

    log_prob: jax.Array
    """(..., N, L) of each token under each draw's mask"""
    coefficient: jax.Array
    """(..., N, L) its factor in the draw's ELBO; 0 where it is not scored"""
    scale: jax.Array
    """(...) factor of the scores on that ELBO: 1, or 1 / L"""


class Scores(NamedTuple):
    """How likely actions are, as a policy can tell: one surrogate of -log pi per draw, or one -log p per step."""

    loss: jax.Array
    """(..., N) lower is more likely; N = 1 where it is a likelihood."""
    weight: jax.Array
    """(N,) weights of the draws in a mean over them, summing to 1."""
    known: jax.Array
    """(..., N) bool; a score that is not known is 0 and takes part in nothing."""
    bound: jax.Array | None = None
    """(...) negative bound of the log-likelihood, averaged over draws: what DiPOD keeps tight. None: there is none."""
    upper: jax.Array | None = None
    """(...) negative upper bound of the log-likelihood, where the policy has a true one. None: there is none."""
    steps: Steps | None = None
    """of a policy whose action is made by Gaussian steps, in order; None: it is not"""
    penalty: jax.Array | None = None
    """(...) a term of the family's own, which the objective that trains it weighs. None: there is none."""
    time: jax.Array | None = None
    """(..., N) time of each draw in [0, 1], where the draws are of a flow; 1 is noise"""
    velocity: jax.Array | None = None
    """(..., N, d) what the network predicted at each draw, where the draws are of a flow"""
    denoised: jax.Array | None = None
    """(..., N, d) the action that the network predicts from each draw, x_t - t v, where the draws are of a flow"""
    tokens: TokenScores | None = None
    """where the policy is over tokens"""

    def kept(self) -> Scores:
        """What an update keeps of scores under fixed parameters; the draws' weights have no batch axis and are the
        same under all."""
        return self._replace(weight=None, bound=None, penalty=None, denoised=None)

    def mean(self) -> jax.Array:
        """(...) weighted mean loss over the draws."""
        return self.loss @ self.weight


def make_scores(loss: jax.Array, *, weight: jax.Array | None = None, bound: jax.Array | None = None) -> Scores:
    """Scores of losses (..., N), equal weights where none are given; NaN marks a score that is not known."""
    known = ~jnp.isnan(loss)
    loss = jnp.where(known, loss, 0.0)
    weight = jnp.full(loss.shape[-1:], 1.0 / loss.shape[-1], loss.dtype) if weight is None else weight
    return Scores(loss, weight, known, bound)


def matched(new: Scores, old: Scores) -> tuple[Scores, Scores]:
    """Both with loss 0 where one of them is not known: the ratio is 1 there and the gradient 0."""
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
