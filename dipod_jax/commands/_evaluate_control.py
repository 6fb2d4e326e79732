"""Return of a saved control policy, and a new video."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options
from dipod_jax.config import Backend
from dipod_jax.memory import check_evaluation


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a saved policy over episodes of 1000 steps, with random base noise and with base noise 0."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """a run folder; nothing else is needed"""
    episodes: int = 128
    """episodes of each kind, >= 1"""
    seed: int | None = None
    """which of the run's seeds; none: the first"""
    which: Literal["latest", "best"] = "latest"
    """which checkpoint: the newest, or the one with the seed's best evaluation return"""
    evaluation_seed: int = 0
    """seed of the start states and the base noise, >= 0"""
    backend: Backend = "auto"
    """physics; auto takes mjx on an accelerator, else native"""
    video: bool = True
    """film a few episodes into RUN_DIR/evaluation.mp4"""

    def __post_init__(self):
        require(self.episodes >= 1, "episodes", self.episodes, "at least 1")
        require(0 <= self.evaluation_seed < 2**31, "evaluation-seed", self.evaluation_seed, "0 <= seed < 2^31")


def parse(arguments: list[str]) -> EvaluateConfig:
    """The options, with the run folder and the seed checked before physics is imported."""
    from dipod_jax.presets import check_backend
    from dipod_jax.runs import RunFolder, check_writable
    from dipod_jax.serialisation import trained_config

    config = parse_options(EvaluateConfig, arguments, prog=command_name("evaluate"))
    check_evaluation(config.episodes, trained_config(RunFolder.open(config.run_dir), config.seed))
    check_backend(config.backend)
    check_writable(config.run_dir, "RUN_DIR")
    return config


def evaluate(options: EvaluateConfig) -> None:
    """Film, write the result to RUN_DIR/evaluation.json, and print it."""
    from dipod_jax import api
    from dipod_jax.runs import RunFolder

    video = options.run_dir / "evaluation.mp4" if options.video else None
    result = api.evaluate(
        options.run_dir,
        episodes=options.episodes,
        seed=options.seed,
        which=options.which,
        evaluation_seed=options.evaluation_seed,
        backend=options.backend,
        video=video,
    )
    RunFolder.open(options.run_dir).write_json("evaluation.json", result)
    print(json.dumps(result, indent=1))
