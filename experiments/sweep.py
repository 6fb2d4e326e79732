"""One run per beta, in one program: `python -m experiments.sweep --betas 0 0.002 0.02 --task BallInCup --seeds 4`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dipod_jax.config import Config
from experiments import train as train_command
from experiments._cli import run_cli

STARTED = time.perf_counter()
USAGE = """usage: python -m experiments.sweep --betas BETA [BETA ...] [--out DIR] [any option of experiments.train]

Train one run per beta (a number, or auto) into DIR/beta<beta>, one after the other in one compiled program, then draw
DIR/returns.png and DIR/drift.png. A run that is finished is left as it is and one that is not is continued, so a sweep
that was stopped goes on with the same command. `python -m experiments.train --help` lists the other options.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and sweep."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return
    run_cli(parse, sweep, arguments)


def parse(arguments: list[str]) -> list[Config]:
    """One config per beta; all of them validated before the first run."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--betas", nargs="+", default=[])
    own.add_argument("--out", type=Path, default=Path("runs") / "sweep" / time.strftime("%Y%m%d-%H%M%S"))
    try:
        known, rest = own.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from error
    if not known.betas or len(set(known.betas)) != len(known.betas):
        raise ValueError(f"--betas {' '.join(known.betas)} is not allowed: one or more different values")
    if any(option.split("=")[0] in ("--resume", "--beta") for option in rest):
        raise ValueError(
            "--beta and --resume are not options of a sweep: use --betas; a stopped sweep resumes by itself"
        )
    return [_config(rest, beta, known.out / f"beta{beta}") for beta in known.betas]


def _config(rest: list[str], beta: str, out: Path) -> Config:
    resume = ["--resume"] if (out / "config.json").exists() else []
    return train_command.parse([*rest, "--beta", beta, "--out", str(out), *resume])


def sweep(configs: list[Config]) -> None:
    """Run what is not finished, then compare."""
    from dipod_jax.runs import RunFolder
    from dipod_jax.training.setup import prepare_jax

    prepare_jax(configs[0])
    from dipod_jax.training.loop import train
    from dipod_jax.training.trainer import Trainer

    started, trainer = STARTED, None
    for config in configs:
        assert config.out is not None
        if config.resume and RunFolder.open(config.out).read_result() is not None:
            print(f"beta {config.beta_label}: finished before, in {config.out}")
            continue
        print(f"beta {config.beta_label}: {config.out}")
        trainer = trainer or Trainer(config, config.all_seeds)
        train(config, started=started, trainer=trainer)
        started = time.perf_counter()
    from experiments.compare import CompareConfig, draw

    folders = tuple(config.out for config in configs if config.out is not None)
    labels = tuple(f"beta {config.beta_label}" for config in configs)
    draw(CompareConfig(folders, out=folders[0].parent, labels=labels))


if __name__ == "__main__":
    main()
