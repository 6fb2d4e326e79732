"""The policy of each seed with its highest evaluation return, kept beside the newest checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dipod_jax.runs import CheckpointError, latest_checkpoint, reason_of, restore_checkpoint, save_checkpoint
from dipod_jax.training.hosts import is_first, to_host
from dipod_jax.training.state import TrainState


class Best(NamedTuple):
    """The parts of a state that acting needs, under their names in a whole state, and their origin; leading axis
    (S,)."""

    learner: Any
    """of a `LearnerState`: the policy's parameters and the observation statistics"""
    actor: Any
    """of an `ActorState`: the base noise of one environment, whose last axes are those of an action"""
    score: np.ndarray
    """(S,) mean return of the evaluation; -inf before the first"""
    iteration: np.ndarray
    """(S,) int32, after which it was evaluated"""


class BestKeeper:
    """The best policy of each seed so far, in memory, and on the disk when `save` was called.

    The best of many evaluations, by mean return with random base noise, is high partly by chance: evaluate the policy
    again before you report it.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Keep it as the only checkpoint in `folder`; what goes wrong is said in one line."""
        self._folder, self._say = folder, say
        self._best: Best | None = None
        self._unsaved = self._failing = False

    def take_up(self, state: TrainState) -> None:
        """Continue with what an earlier session saved; `state` is a state of the run, read for its shapes."""
        of_state = _of(state, 0, np.zeros(len(state.learner.iteration)))
        if not is_first():
            return
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), of_state)
        try:
            path = latest_checkpoint(self._folder, say=self._say)
            if path is not None:
                self._best = jax.device_get(restore_checkpoint(path, shapes))
        except CheckpointError as error:
            self._say(f"warning: the best policy so far cannot be read, and is sought anew: {reason_of(error)}")

    def offer(self, state: TrainState, iteration: int, score: np.ndarray) -> None:
        """Keep the policy of each seed whose `score` (S,) is higher than all before; nan never is."""
        offered = _of(state, iteration, score)
        if self._best is None:
            self._best, self._unsaved = offered._replace(score=np.nan_to_num(offered.score, nan=-np.inf)), True
            return
        better = offered.score > self._best.score
        if better.any():
            pick = lambda new, old: np.where(better.reshape(-1, *[1] * (np.ndim(new) - 1)), new, old)
            self._best, self._unsaved = jax.tree.map(pick, offered, self._best), True

    def save(self) -> None:
        """Write it unless it is written already. If the disk refuses, warn once; the next save tries again."""
        if self._best is None or not self._unsaved or not is_first():
            return
        try:
            save_checkpoint(self._folder, int(self._best.iteration.max()), self._best, keep=1)
        except (OSError, CheckpointError) as error:
            if not self._failing:
                self._say(f"warning: the best policy cannot be written ({reason_of(error)}); it is tried again")
            self._failing = True
            return
        self._unsaved = self._failing = False


def _of(state: TrainState, iteration: int, score: np.ndarray) -> Best:
    """The part of a state that acting needs, on the host. A field that is None is no leaf."""
    learner, actor = state
    kept = {"params": {"policy": learner.params["policy"]}, "obs_statistics": learner.obs_statistics}
    acting = learner._replace(**{name: kept.get(name) for name in learner._fields})
    noise = actor._replace(env=None, base_noise=actor.base_noise[:, :1])
    acting, noise = to_host((acting, noise))
    return Best(acting, noise, np.asarray(score, np.float32), np.full(len(score), iteration, np.int32))
