"""One run per beta, in one program: `dipod sweep --betas 0 0.02 0.05 --task BallInCup --seeds 4`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dipod_jax.checks import check_selection
from dipod_jax.commands._arms import parse_arm, refuse_options, run_command, split_arguments
from dipod_jax.config import Config
from dipod_jax.studies.arms import run_arms

STARTED = time.perf_counter()
USAGE = """usage: dipod sweep --betas BETA [BETA ...] [--out DIR] [options of dipod train]

Train one run per beta (a number, or auto) into DIR/beta<beta>, one after the other in one compiled program, then draw
DIR/returns.png and DIR/drift.png. A run that is finished is left as it is and one that is not is continued, so a sweep
that was stopped goes on with the same command. `dipod train --help` lists the other options.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and sweep."""
    run_command(USAGE, parse, sweep, argv)


def parse(arguments: list[str]) -> list[Config]:
    """One config per beta; all of them validated before the first run."""
    betas, out, rest = split_arguments(arguments, "betas", "sweep")
    refuse_options(rest, ("beta", "resume"), "use --betas; a sweep that was stopped goes on with the same command")
    configs = [parse_arm(rest, ("--beta", beta), out / f"beta{beta}") for beta in betas]
    check_selection("betas", [config.beta_label for config in configs])
    return configs


def sweep(configs: list[Config]) -> None:
    """Run what is not finished, then compare."""
    arms = {f"beta {config.beta_label}": config for config in configs}
    run_arms(arms, started=STARTED, one_program=True)


if __name__ == "__main__":
    main()
