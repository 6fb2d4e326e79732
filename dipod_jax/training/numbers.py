"""A run whose updates are all skipped, as their gradients are not finite, ends and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dipod_jax.runs import CheckpointError, NumbersError, latest_checkpoint, reason_of
from dipod_jax.types import Transition

MOST_IN_A_ROW = 10


def find_cause(seeds: tuple[int, ...], metrics: dict[str, Any], transitions: Transition | None) -> str | None:
    """Why the last 10 updates of a seed or more were skipped, in words; None where they were not.

    Args:
        seeds: S of them.
        metrics: of `Learner.update`, (S,).
        transitions: (S, T, B, ...) that were learned from.
    """
    skipped = np.asarray(metrics.get("skipped_in_a_row", np.zeros(len(seeds))))
    if skipped.max() < MOST_IN_A_ROW:
        return None
    index = int(skipped.argmax())
    what = f"seed {seeds[index]}: the last {skipped[index]:.0f} updates were skipped, as their gradients are not finite"
    found = [] if transitions is None else _not_finite(transitions, index)
    run_away = "over a finite rollout: policy or critic has run away; a lower --learning.learning-rate may hold them"
    where = f" ({', '.join(found)})" if found else f" {run_away}"
    return what + where


def _not_finite(transitions: Transition, index: int) -> list[str]:
    """`action not finite in 3 of 8192 transitions`, for each part of which this is so."""
    found = []
    for name in ("obs", "next_obs", "action", "reward"):
        values = np.asarray(getattr(transitions, name)[index])
        count = values.shape[0] * values.shape[1]
        bad = (~np.isfinite(values)).reshape(count, -1).any(1).sum()
        if bad:
            found.append(f"{name} not finite in {bad} of {count} transitions")
    return found


def stopped_by(cause: str, checkpoints: Path) -> NumbersError:
    """What to raise: one line with the cause and what there is to go on with."""
    try:
        good = latest_checkpoint(checkpoints)
        kept = "nothing was saved before" if good is None else f"the last good state is {good}"
    except CheckpointError as error:
        kept = reason_of(error)
    return NumbersError(f"training has ended: {cause}; {kept}")
