"""Return of a saved policy, and a new video: `python -m experiments.evaluate RUN_DIR`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.checks import require
from dipod_jax.cli import parse_options, run_cli
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
    """which of the run's seeds; its first where none"""
    which: Literal["latest", "best"] = "latest"
    """which checkpoint: the newest, or the policy that the seed's own evaluations liked best"""
    evaluation_seed: int = 0
    """seed of the start states and the base noise, >= 0"""
    backend: Backend = "auto"
    """physics; auto takes mjx on an accelerator, else native"""
    video: bool = True
    """film a few episodes into RUN_DIR/evaluation.mp4"""

    def __post_init__(self):
        require(self.episodes >= 1, "episodes", self.episodes, "at least 1")
        require(0 <= self.evaluation_seed < 2**31, "evaluation-seed", self.evaluation_seed, "0 <= seed < 2^31")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and evaluate."""
    run_cli(parse, evaluate, argv)


def parse(arguments: list[str]) -> EvaluateConfig:
    """The options, with the run folder and the seed checked before jax is imported."""
    from dipod_jax.runs import RunFolder, check_writable
    from dipod_jax.serialisation import from_json
    from experiments.train import check_backend

    config = parse_options(EvaluateConfig, arguments, prog="python -m experiments.evaluate")
    trained_as = from_json(RunFolder.open(config.run_dir).config)
    check_evaluation(config.episodes, trained_as)
    seeds = trained_as.all_seeds
    trained = f"the run in {config.run_dir} trained {', '.join(map(str, seeds))}"
    require(config.seed is None or config.seed in seeds, "seed", config.seed, trained)
    check_backend(config.backend)
    check_writable(config.run_dir)
    return config


def evaluate(options: EvaluateConfig) -> None:
    """Print the result, write it to RUN_DIR/evaluation.json, and film."""
    from dipod_jax.presets import choose
    from dipod_jax.runs import RunFolder
    from dipod_jax.serialisation import from_json
    from dipod_jax.training.setup import available_cores, prepare_jax

    folder = RunFolder.open(options.run_dir)
    _, backend, _ = choose("cpu", options.backend)
    prepare_jax(dataclasses.replace(from_json(folder.config), backend=backend))
    import jax

    from dipod_jax import envs
    from dipod_jax.training.artifacts import write_policy_video
    from dipod_jax.training.evaluation import evaluate as run_episodes
    from dipod_jax.training.loading import restore_policy
    from dipod_jax.training.results import start_note, summarise

    trained = restore_policy(options.run_dir, options.seed, options.which)
    env = envs.make(trained.config.task, backend, episode_length=1000, num_threads=available_cores())
    returns_key, video_key = jax.random.split(jax.random.key(options.evaluation_seed))
    policy = trained.policy, trained.params, trained.statistics
    returns = jax.device_get(jax.jit(lambda key: run_episodes(env, *policy, key, options.episodes))(returns_key))
    result = {
        "task": trained.config.task,
        "seed": trained.config.all_seeds[0] if options.seed is None else options.seed,
        "which": options.which,
        "backend": backend,
        "episodes": options.episodes,
        "return": summarise(returns.random_noise[None]),
        "return_zero_noise": summarise(returns.zero_noise[None]),
        "note": start_note(trained.config.task),
    }
    print(json.dumps(result, indent=1))
    folder.write_json("evaluation.json", result)
    if options.video and write_policy_video(env, *policy, options.run_dir / "evaluation.mp4", video_key, print):
        print(f"video: {options.run_dir / 'evaluation.mp4'}")


if __name__ == "__main__":
    main()
