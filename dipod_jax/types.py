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


class Scores(NamedTuple):
    """How likely actions are, as a policy can tell: one surrogate of -log pi per draw."""

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
