"""Post-train a masked diffusion on a small verifiable task.

    dipod language --task sudoku --objective fpo --beta 0.05 --seeds 3

pretrains (once, cached), post-trains, and leaves a run folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.language.config import LanguageConfig, make_config
from dipod_jax.language.methods import available_methods
from dipod_jax.memory import check_post_training
from dipod_jax.runs import check_unused, check_writable


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and post-train."""
    run_cli(parse, run, argv)


def parse(arguments: list[str]) -> LanguageConfig:
    """The config of a command line: the defaults of its task and objective, under the options given."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--task", default="sudoku")
    peek.add_argument("--objective", default="fpo")
    try:
        known, rest = peek.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from error
    start = make_config(known.task, known.objective)
    methods = " ".join(f"[{name}]" if name == known.objective else name for name in available_methods())
    description = (
        f"Post-train a masked diffusion. --task sudoku|countdown; --objective NAME, one of: {methods}. "
        "Options and defaults below are those of the task and the objective named on the command line."
    )
    config = parse_options(LanguageConfig, rest, default=start, prog=command_name("language"), description=description)
    check_post_training(config)
    if config.test_file is not None:
        config.problems.read(config.test_file)  # a mistake in it is said before anything is trained
    out = config.out or Path("runs") / config.task / f"{config.method}-beta{config.beta}" / time.strftime(
        "%Y%m%d-%H%M%S"
    )
    check_writable(out)
    check_unused(out)
    return dataclasses.replace(config, out=out)


def run(config: LanguageConfig) -> None:
    """Train, on an accelerator if JAX finds one, else on the CPU."""
    from dipod_jax.language.loop import train
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    train(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
