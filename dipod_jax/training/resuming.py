"""Creating a run's folder, or continuing a run from what its folder holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dipod_jax.config import Config
from dipod_jax.runs import (
    RunFolder,
    RunFolderError,
    find_holes,
    latest_checkpoint,
    restore_checkpoint,
)
from dipod_jax.runs.silent import SilentFolder
from dipod_jax.serialisation import to_json
from dipod_jax.training.hosts import from_first, is_first, place, text_from_first, to_host
from dipod_jax.training.programs import Programs
from dipod_jax.training.state import TrainState, Tunables
from dipod_jax.types import is_key


class Resumed(NamedTuple):
    """What a resumed run continues from."""

    state: TrainState | None
    """None if the run starts again; never None in what `resume` returns"""
    records: list[dict[str, Any]]
    """of `metrics.jsonl`, up to the checkpoint"""
    holes: str | None
    """the records that are missing, in words"""


def open_folder(config: Config) -> RunFolder | SilentFolder:
    """The run's folder, which the first of its processes alone reads and writes."""
    assert config.out is not None
    if not is_first():
        return SilentFolder(config.out)
    return RunFolder.resume(config.out) if config.resume else RunFolder.create(config.out, to_json(config))


def resume(config: Config, folder: RunFolder | SilentFolder, programs: Programs, say: Callable[[str], None]) -> Resumed:
    """Continue from the newest whole checkpoint, or start again if there is none.

    The folder is not changed until everything has been checked.

    Args:
        config: of the run; options that may change when a run is resumed may differ.
        folder: locked; a `SilentFolder` in every process but the first.
        programs: of `config`.
        say: called with one line for each thing that is not as it was left.

    Raises:
        CheckpointError, RunFolderError: nothing to continue from, or `strict_resume` forbids it.
    """
    found = _read(config, folder, programs, say) if isinstance(folder, RunFolder) else None
    if jax.process_count() > 1:
        found = _shared(programs, found)
    assert found is not None
    if found.state is None:
        return found._replace(state=fresh_state(config, programs))
    return found._replace(state=_with_tunables(config, programs, found.state))


def _shared(programs: Programs, found: Resumed | None) -> Resumed:
    """What the first process has found, on all; the records of others are those that decide what comes next."""
    text = None
    if found is not None:
        deciding = [r for r in found.records if r["kind"] == "evaluation" or r.get("diverged")]
        text = json.dumps({"begins": found.state is None, "records": deciding, "holes": found.holes})
    told = json.loads(text_from_first(text) or "")
    shared = found or Resumed(None, told["records"], told["holes"])
    if told["begins"]:
        return shared
    abstract = programs.abstract_state()
    state = from_first(_zeros(abstract) if shared.state is None else shared.state)
    return shared._replace(state=jax.tree.map(lambda x, like: place(x, like.sharding), state, abstract))


def _zeros(abstract: TrainState) -> TrainState:
    key = lambda x: jax.random.split(jax.random.key(0), x.shape)
    return jax.tree.map(lambda x: key(x) if is_key(x) else np.zeros(x.shape, x.dtype), abstract)


def _with_tunables(config: Config, programs: Programs, state: TrainState) -> TrainState:
    tunables = Tunables.of(config)
    if config.beta == "auto":  # where the controller left it
        tunables = tunables.with_beta(to_host(state.learner.tunables.beta))
    if config.learning.kl_target is not None:  # likewise
        tunables = tunables.with_rate(to_host(state.learner.tunables.learning_rate))
    return programs.with_tunables(state, tunables)


def _read(config: Config, folder: RunFolder, programs: Programs, say: Callable[[str], None]) -> Resumed:
    """What the folder holds, brought to where the run goes on; the state of several processes is on the host."""
    strict = config.strict_resume
    checkpoint = latest_checkpoint(folder.checkpoints, strict=strict, say=say)
    if checkpoint is None:
        folder.begin_again(to_json(config), say)
        return Resumed(None, [], None)
    abstract = programs.abstract_state()
    if jax.process_count() > 1:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), abstract)
    state = restore_checkpoint(checkpoint, abstract)
    iteration = int(to_host(state.learner.iteration)[0])
    holes = _find_holes(config, folder, iteration, strict, say)
    if (begun := _devices_at_the_start(folder)) not in (None, jax.device_count()):
        say(f"begun on {begun} devices, going on with {jax.device_count()}: the same run but for rounding")
    is_finished = iteration >= config.num_iterations
    folder.go_on_from(checkpoint, iteration, to_json(config), is_finished=is_finished)
    return Resumed(state, folder.read_metrics(), holes)


def _devices_at_the_start(folder: RunFolder) -> int | None:
    """How many devices the run was begun on; None where its folder does not tell."""
    count = folder.provenance.get("machine", {}).get("device_count")
    return count if isinstance(count, int) else None


def fresh_state(config: Config, programs: Programs) -> TrainState:
    """The state that a new run begins with."""
    return programs.with_tunables(programs.init(), Tunables.of(config))


def evaluation_is_due(config: Config, iteration: int) -> bool:
    """Whether an evaluation during training is due after `iteration`; every run also ends with one."""
    interval, size = config.evaluation.interval, config.steps_per_iteration
    return iteration == 0 or iteration * size // interval > (iteration - 1) * size // interval


def standing_result(folder: RunFolder | SilentFolder) -> dict[str, Any] | None:
    """The content of `result.json`, None if it cannot be read; a shorter run's result was set aside before."""
    if isinstance(folder, SilentFolder):
        return None
    return folder.standing_result("final_return", "final_return_zero_noise", "env_steps_per_s")


def _find_holes(
    config: Config, folder: RunFolder, iteration: int, strict: bool, say: Callable[[str], None]
) -> str | None:
    """Name the records that a run which has come so far must have and lacks.

    The evaluation after the last iteration may be missing: the run can have been stopped while it was made.
    """
    evaluated = [i for i in range(iteration) if evaluation_is_due(config, i)]
    expected = {"train": range(1, iteration + 1), "evaluation": evaluated}
    holes = find_holes(folder.read_metrics(), config.all_seeds, expected)
    if holes is not None:
        refusal = f"{folder.path / 'metrics.jsonl'} lacks {holes}"
        if strict:
            raise RunFolderError(f"{refusal}; --strict-resume does not go on from records with holes")
        say(f"warning: {refusal}: curves and times have a hole there")
    return holes
