"""Taking a language run up again where its folder says it stands."""

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
    """What a run goes on from."""

    state: RunState | None
    """None where the run begins again"""
    records: list[dict[str, Any]]
    """of `metrics.jsonl`, up to the checkpoint"""


def resume(config: LanguageConfig, folder: RunFolder, programs: Programs, say: Callable[[str], None]) -> Resumed:
    """Go on from the newest whole checkpoint, or begin again where there is none.

    Nothing is changed in the folder before everything is found fit.

    Args:
        config: the run's own, but for how far it goes.
        folder: locked.
        programs: of `config`.
        say: told, a line each, what is not as it was left.

    Raises:
        CheckpointError, RunFolderError: nothing to go on from.
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
