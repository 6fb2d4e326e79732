"""Train a policy on a MuJoCo Playground task or one of your own: `dipod train --task CheetahRun`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from dipod_jax import STARTED
from dipod_jax.api import default_folder
from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.config import RESUMABLE, Config, check_unchanged
from dipod_jax.memory import check_training
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.presets import check_backend, make_config
from dipod_jax.serialisation import resumable_config

# The schedule ends where the run does: one that is made longer takes its rate up again where the longer schedule is.
RATE_WARNING = "warning: the learning rate's schedule ends with the run: over {} env steps before, now over {}"


def main(argv: Sequence[str] | None = None, *, task: str | None = None) -> None:
    """Parse a command line and train; a command for one task passes `task`."""
    run_cli(lambda arguments: parse(arguments, task), _train, argv, lasts=True)


def parse(arguments: list[str], task: str | None = None) -> Config:
    """The config of a command line: that of a preset, or with --resume that of the run, overridden by the options
    given."""
    start, announcement, rest = _starting_config(arguments, task)
    prog = command_name(task.lower() if task else "train")
    config = parse_options(Config, rest, default=start, prog=prog, description=_description(task, start))
    if task is not None and config.task != task:
        instead = command_name("train")
        raise ValueError(f"--task {config.task} is not allowed: this command trains {task}; use {instead}")
    if announcement:
        print(announcement, file=sys.stderr)
    return _check_folder(config, start)


def _description(task: str | None, start: Config) -> str:
    what = f"Train a policy on MuJoCo Playground's {task}." if task else "Train a policy on a MuJoCo Playground task."
    methods = " ".join(f"[{name}]" if name == start.objective.name else name for name in OBJECTIVES)
    return (
        f"{what} --objective NAME chooses the method, one of: {methods}. "
        "Options and defaults below are those of the objective, preset and task named on the command line."
    )


def _starting_config(arguments: list[str], task: str | None) -> tuple[Config, str | None, list[str]]:
    """The config that the defaults come from, chosen by a few of the options, and the remaining arguments.

    The objective determines which options exist, so its name is taken out; tyro parses all the others.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--task", default=task or "BallInCup")
    peek.add_argument("--preset", default="auto")
    peek.add_argument("--backend", default="auto")
    peek.add_argument("--out", type=Path)
    peek.add_argument("--resume", action="store_true")
    choose = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    choose.add_argument("--objective")
    try:
        known, _ = peek.parse_known_args(arguments)
        method, rest = choose.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from error
    if known.resume and known.out is not None:
        saved = resumable_config(known.out)
        what = f"{saved.objective.name} with --resume, with which the run in {known.out} was started"
        require(method.objective in (None, saved.objective.name), "objective", method.objective, what)
        return dataclasses.replace(saved, resume=True, strict_resume=False, out=known.out), None, rest
    return *make_config(known.preset, known.task, method.objective or "fpo", known.backend), rest


def _check_folder(config: Config, start: Config) -> Config:
    """Fill in the folder, and refuse one that cannot be written or resumed, before anything is compiled."""
    from dipod_jax.runs import check_logger, check_resumable, check_unused, check_writable

    check_logger(config.logger)
    check_backend(config.backend)
    if not config.distributed:  # how many devices share it is not known yet, and to ask for one would settle them
        check_training(config)
    if config.preset == "auto":
        config = dataclasses.replace(config, preset=start.preset)
    if config.backend == "auto":
        config = dataclasses.replace(config, backend=start.backend)
    if config.resume:
        check_unchanged(start, config, RESUMABLE)
        if config.num_iterations != start.num_iterations and config.learning.final_learning_rate is not None:
            print(RATE_WARNING.format(start.total_steps, config.total_steps), file=sys.stderr)
        if not config.distributed and config.out is not None:
            check_resumable(config.out)
        return config
    if config.out is None:
        config = dataclasses.replace(config, out=default_folder(config))
    assert config.out is not None
    if config.distributed:  # the first process, which has the folder, is known when all have joined
        return config
    check_writable(config.out)
    check_unused(config.out)
    return config


def _train(config: Config) -> None:
    from dipod_jax.training.setup import prepare_jax

    prepare_jax(config)
    from dipod_jax.training.loop import train

    if not config.distributed:
        train(config, started=STARTED)
        return
    from dipod_jax.training.joining import run_joined

    run_joined(config, lambda config, watch: train(config, started=STARTED, watch=watch))


if __name__ == "__main__":
    main()
