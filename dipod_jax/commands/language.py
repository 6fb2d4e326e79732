"""Post-train a masked diffusion on a small verifiable task.

    dipod language --task sudoku --objective fpo --beta 0.05 --seeds 3

pretrains (once, cached), post-trains, and leaves a run folder; `--resume --out FOLDER` goes on with one that was
stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.config import check_unchanged
from dipod_jax.language.config import LanguageConfig, from_json, make_config
from dipod_jax.language.methods import available_methods
from dipod_jax.memory import check_post_training
from dipod_jax.runs import RunFolder, check_resumable, check_unused, check_writable

# Options that may change when a run is resumed: how far it goes, what it is evaluated on at the end, when it saves.
RESUMABLE = ("learning.num-iterations", "test-file", "cache", "checkpoint-interval", "out")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and post-train."""
    run_cli(parse, run, argv, lasts=True)


def parse(arguments: list[str]) -> LanguageConfig:
    """The config of a command line: the defaults of its task and objective, or with --resume that of the run, under the
    options given."""
    start, rest = _starting_config(arguments)
    methods = " ".join(f"[{name}]" if name == start.method else name for name in available_methods())
    description = (
        f"Post-train a masked-diffusion language model. --task sudoku|countdown; --objective NAME, one of: {methods}. "
        "Options and defaults below are those of the task and the objective named on the command line."
    )
    config = parse_options(LanguageConfig, rest, default=start, prog=command_name("language"), description=description)
    check_post_training(config)
    config.problems.problems("train")  # whether there are enough of them
    if config.test_file is not None:
        config.problems.read(config.test_file)  # a mistake in it is said before anything is trained
    if config.resume:
        check_unchanged(start, config, RESUMABLE)
        if config.out is not None:
            check_resumable(config.out)
        return config
    if config.pretrained is not None:
        from dipod_jax.language.pretrain import check_params

        check_params(config.pretrained, config.build_network())
    out = config.out or Path("runs") / config.task / f"{config.method}-beta{config.beta}" / time.strftime(
        "%Y%m%d-%H%M%S"
    )
    check_writable(out)
    check_unused(out)
    return dataclasses.replace(config, out=out)


def _starting_config(arguments: list[str]) -> tuple[LanguageConfig, list[str]]:
    """The config that the defaults come from, chosen by a few of the options, and the remaining arguments."""
    choose = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    choose.add_argument("--task")
    choose.add_argument("--objective")
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--out", type=Path)
    peek.add_argument("--resume", action="store_true")
    try:
        named, rest = choose.parse_known_args(arguments)
        known, _ = peek.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from error
    if not (known.resume and known.out is not None):
        return make_config(named.task or "sudoku", named.objective or "fpo"), rest
    stored = RunFolder.open(known.out).config
    train = command_name("train")
    require(stored.get("room") == "language", "resume", True, f"with {known.out} by {train}: it is no language run")
    saved = from_json(stored)
    for option, given, was in (("task", named.task, saved.task), ("objective", named.objective, saved.method)):
        require(
            given in (None, was), option, given, f"{was} with --resume, with which the run in {known.out} was started"
        )
    return dataclasses.replace(saved, resume=True, out=known.out), rest


def run(config: LanguageConfig) -> None:
    """Train, on an accelerator if JAX finds one, else on the CPU."""
    from dipod_jax.language.loop import train
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    train(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
