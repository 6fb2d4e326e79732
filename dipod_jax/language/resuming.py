"""Continuing a language run from what its folder holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.language.config import LanguageConfig, to_json
from dipod_jax.language.post_training import Programs, RunState, Tunables
from dipod_jax.language.pretrain import init_params
from dipod_jax.runs import RunFolder, find_holes, latest_checkpoint, restore_checkpoint


class Resumed(NamedTuple):
    """What a resumed run continues from."""

    state: RunState | None
    """None if the run starts again"""
    records: list[dict[str, Any]]
    """of `metrics.jsonl`, up to the checkpoint"""


def resume(config: LanguageConfig, folder: RunFolder, programs: Programs, say: Callable[[str], None]) -> Resumed:
    """Continue from the newest whole checkpoint, or start again if there is none.

    The folder is not changed until everything has been checked.

    Args:
        config: of the run; only its length may differ.
        folder: locked.
        programs: of `config`.
        say: called with one line for each thing that is not as it was left.

    Raises:
        CheckpointError, RunFolderError: nothing to continue from.
    """
    checkpoint = latest_checkpoint(folder.checkpoints, say=say)
    if checkpoint is None:
        folder.begin_again(to_json(config), say)
        return Resumed(None, [])
    state = RunState(**restore_checkpoint(checkpoint, abstract_state(config, programs)._asdict()))
    iteration = int(state.iteration[0])
    seen = [record for record in folder.read_metrics() if record["iteration"] <= iteration]
    if (holes := find_holes(seen, config.all_seeds, _expected(config, iteration))) is not None:
        say(f"warning: {folder.path / 'metrics.jsonl'} lacks {holes}: curves and times have a hole there")
    is_finished = iteration >= config.learning.num_iterations
    folder.go_on_from(checkpoint, iteration, to_json(config), is_finished=is_finished)
    return Resumed(state, seen)


def abstract_state(config: LanguageConfig, programs: Programs) -> RunState:
    """Shapes and dtypes of a run's state; its leaves have a leading seed axis (S, ...)."""
    params = jax.eval_shape(lambda: init_params(config.build_network(), jax.random.key(0)))
    return jax.eval_shape(programs.init, params, jnp.array(config.all_seeds, jnp.uint32), Tunables.of(config))


def measurement_is_due(config: LanguageConfig, iteration: int) -> bool:
    """Whether the drift is measured after `iteration`."""
    interval = config.measure.drift_interval
    ends = iteration in (0, config.learning.num_iterations)
    return config.measures_drift and (ends or iteration % interval == 0)


def evaluation_is_due(config: LanguageConfig, iteration: int) -> bool:
    """Whether the policy is evaluated after `iteration`."""
    return iteration == config.learning.num_iterations or iteration % config.measure.evaluation_interval == 0


def _expected(config: LanguageConfig, iteration: int) -> dict[str, list[int]]:
    """The records that a run which has come so far must have; the last measurements may have been cut off."""
    past = range(iteration)
    return {
        "train": list(range(1, iteration + 1)),
        "drift": [i for i in past if measurement_is_due(config, i)],
        "evaluation": [i for i in past if evaluation_is_due(config, i)],
    }
