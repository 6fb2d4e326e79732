"""Seeds that no longer learn, because all their updates are skipped for gradients that are not finite, and why, in
words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.runs import CheckpointError, NumbersError, latest_checkpoint, reason_of
from dipod_jax.training.hosts import to_host
from dipod_jax.training.state import LearnerState
from dipod_jax.types import LARGEST, Transition

MOST_IN_A_ROW = 10


def find_causes(seeds: tuple[int, ...], metrics: dict[str, Any], transitions: Transition | None) -> dict[int, str]:
    """For each seed whose last 10 or more updates were skipped, why, in words.

    Args:
        seeds: S of them.
        metrics: of `Learner.update`, (S,).
        transitions: (S, T, B, ...) that were learned from.
    """
    skipped = np.asarray(metrics.get("skipped_in_a_row", np.zeros(len(seeds))))
    return {
        seed: f"seed {seed}: the last {count:.0f} updates were skipped, as their gradients are not finite"
        + _where(transitions, index)
        for index, (seed, count) in enumerate(zip(seeds, skipped, strict=True))
        if count >= MOST_IN_A_ROW
    }


def unless_diverged(before: LearnerState, after: LearnerState) -> LearnerState:
    """One seed's learner after a program; if the seed has diverged, the learner before it, with the new iteration.

    Its parameters are then those of its last update that was taken.
    """
    diverged = before.optimizer.notfinite_count >= MOST_IN_A_ROW  # pyright: ignore[reportAttributeAccessIssue]
    held = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), before, after)
    return held._replace(iteration=after.iteration)


def _where(transitions: Transition | None, index: int) -> str:
    """What a seed's rollout has that is no measurement."""
    found = [] if transitions is None else _not_finite(transitions, index)
    run_away = "over a finite rollout: policy or critic has run away; a lower --learning.learning-rate may hold them"
    return f" ({', '.join(found)})" if found else f" {run_away}"


def _not_finite(transitions: Transition, index: int) -> list[str]:
    """`action not finite or over 1e+10 in 3 of 8192 transitions`, for each part of which this is so."""
    found = []
    for name in ("obs", "next_obs", "action", "reward"):
        values = to_host(getattr(transitions, name))[index]
        count = values.shape[0] * values.shape[1]
        bad = (~(np.abs(values) <= LARGEST)).reshape(count, -1).any(1).sum()
        if bad:
            found.append(f"{name} not finite or over {LARGEST:g} in {bad} of {count} transitions")
    return found


def stopped_by(cause: str, checkpoints: Path) -> NumbersError:
    """The error to raise: one line with the cause, and the checkpoints to continue from."""
    try:
        good = latest_checkpoint(checkpoints)
        kept = "nothing was saved before" if good is None else f"the last good state is {good}"
    except CheckpointError as error:
        kept = reason_of(error)
    return NumbersError(f"training has ended: {cause}; {kept}")
