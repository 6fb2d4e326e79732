"""The library in three calls: make a config, train, evaluate. A run folder goes from one to the next."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.config import RESUMABLE, Backend, Config, Preset, check_unchanged
from dipod_jax.memory import check_evaluation, check_training
from dipod_jax.options import override
from dipod_jax.presets import check_backend, choose
from dipod_jax.presets import make_config as preset_config
from dipod_jax.serialisation import from_json, resumable_config


def make_config(
    task: str = "BallInCup",
    *,
    objective: str = "fpo",
    preset: Preset = "auto",
    backend: Backend = "auto",
    out: str | Path | None = None,
    **options: Any,
) -> Config:
    """The config of a training run: a preset's options, and yours over them.

    Args:
        task: one of Playground's 25 DM-Control tasks, or `module:factory` of your own.
        objective: what the update maximises, a name of `dipod_jax.objectives.OBJECTIVES`.
        preset: where the other options start from: paper, cpu, smoke; auto takes paper on an accelerator, else cpu.
        backend: physics: native, mjx or warp; auto takes mjx on an accelerator, else native.
        out: the run folder; None names one after the task, the objective, beta and the time.
        **options: any other option of `dipod train`, by its field's name in `dipod_jax.config.Config`. Options of a
            group are a dict: `make_config("FingerSpin", beta=0.05, seeds=3, learning={"num_epochs": 8})`, also within
            another: `regularisers={"entropy": {"weight": 0.01}}`.

    Raises:
        ValueError: a value that is not allowed; one line that names the option and what is allowed.
        TypeError: an option that does not exist.
    """
    config, _ = preset_config(preset, task, objective, backend)
    return override(config, _dotted(options) | {"out": None if out is None else Path(out)})


def _dotted(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"learning": {"num_epochs": 8}}` as `{"learning.num_epochs": 8}`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def train(config: Config) -> Path:
    """Train as `config` says.

    It prepares JAX first: on a CPU one device per core, single precision, and a cache of compiled programs. If JAX has
    been used before, its devices stay as they are.

    Returns:
        The run folder: `config.json`, `metrics.jsonl`, `result.json`, checkpoints, pictures, a film, `report.html`.

    Raises:
        ValueError: a backend whose device is missing, a run that no memory here holds, or one that is to be resumed
            with other options than it was started with (see `dipod_jax.config.RESUMABLE`).
        RunFolderError, CheckpointError, StorageError, NumbersError, Stopped: as `dipod_jax.training.loop.train`.
    """
    from dipod_jax.training.setup import prepare_jax

    started = time.perf_counter()
    _, backend, _ = choose(config.preset, config.backend)
    out = config.out or default_folder(config)
    config = dataclasses.replace(config, backend=backend, out=out)
    require(config.preset != "auto", "preset", config.preset, "the one it started from: take make_config")
    require(not config.distributed, "distributed", True, "only with the command dipod train")
    check_backend(config.backend)
    check_training(config)
    if config.resume:
        check_unchanged(resumable_config(out), config, RESUMABLE)
    prepare_jax(config)
    from dipod_jax.training.loop import train

    train(config, started=started)
    return out


def default_folder(config: Config) -> Path:
    """The folder of a run that names none: runs/<task>/<objective>-beta<beta>/<time>-<process>."""
    return config.default_out / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def evaluate(
    run_dir: str | Path,
    *,
    episodes: int = 128,
    seed: int | None = None,
    which: str = "latest",
    evaluation_seed: int = 0,
    backend: Backend = "auto",
    video: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Return of a saved policy over episodes of 1000 steps.

    Args:
        run_dir: a run folder; nothing else is needed.
        episodes: how many with random base noise, and how many with base noise 0, >= 1.
        seed: which of the run's seeds; its first where None.
        which: the checkpoint, "latest" or "best", as `dipod_jax.training.loading.restore_policy` reads them.
        evaluation_seed: of the start states and the base noise.
        backend: physics; auto takes mjx on an accelerator, else native.
        video: a file for a film of a few episodes, `.mp4`; None films nothing.
        say: called with one line if the film cannot be made.

    Returns:
        `return` and `return_zero_noise`, each with `mean`, `ci95`, `ci95_over` and `per_seed`, beside what was
        evaluated and how, and `note`, a caution about how to read them, or None.

    Raises:
        RunFolderError, CheckpointError: not a run folder, or no checkpoint that is whole.
        ValueError: a value that is not allowed.
    """
    from dipod_jax.machine import available_cores
    from dipod_jax.runs import RunFolder, reason_of
    from dipod_jax.training.setup import prepare_jax

    require(episodes >= 1, "episodes", episodes, "at least 1")
    check_backend(backend)
    _, backend, _ = choose("cpu", backend)
    config = dataclasses.replace(from_json(RunFolder.open(Path(run_dir)).config), backend=backend)
    check_evaluation(episodes, config)
    prepare_jax(config)
    import jax

    from dipod_jax import envs
    from dipod_jax.training.artifacts import write_policy_videos
    from dipod_jax.training.evaluation import evaluate as run_episodes
    from dipod_jax.training.loading import restore_policy
    from dipod_jax.training.results import start_note, summarise

    trained = restore_policy(run_dir, seed, which)
    threads, worlds = available_cores(), 2 * episodes
    env = envs.make(trained.config.task, backend, episode_length=1000, num_threads=threads, num_worlds=worlds)
    returns_key, video_key = jax.random.split(jax.random.key(evaluation_seed))
    policy = trained.policy, trained.params, trained.statistics
    take = trained.params, trained.statistics, video_key

    def film(path: Path) -> str | None:
        try:
            return str(path) if write_policy_videos(env, trained.policy, {path: take}, say) else None
        except Exception as error:  # the returns must not be lost for a film
            say(f"warning: no {path} ({reason_of(error)})")

    returns = jax.device_get(jax.jit(lambda key: run_episodes(env, *policy, key, episodes))(returns_key))
    return {
        "task": trained.config.task,
        "seed": trained.config.all_seeds[0] if seed is None else seed,
        "which": which,
        "backend": backend,
        "episodes": episodes,
        "return": summarise(returns.random_noise[None]),
        "return_zero_noise": summarise(returns.zero_noise[None]),
        "note": start_note(trained.config.task),
        "video": None if video is None else film(Path(video)),
    }
