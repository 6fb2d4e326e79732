"""Runs side by side: `dipod compare RUN_DIR RUN_DIR ... --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.runs import RunFolder, check_writable


@dataclass(frozen=True)
class CompareConfig:
    """Draw returns.png and drift.png with one colour per run, and print a table of returns."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """one or more run folders"""
    out: Path = Path("runs/comparison")
    """folder for the pictures"""
    labels: tuple[str, ...] | None = None
    """one name per run, by default its objective and beta; runs with the same name are drawn as seeds of one curve"""
    title: str | None = None
    """heading of the pictures; none: the name of the task"""
    x: Literal["wall_clock_s", "env_steps"] = "env_steps"
    """horizontal axis of returns.png"""

    def __post_init__(self):
        if not self.run_dirs:
            raise ValueError("RUN_DIRS is required: one or more run folders")
        if self.labels is not None:
            one_each = len(self.labels) == len(self.run_dirs)
            require(one_each, "labels", " ".join(self.labels), f"as many names as runs, {len(self.run_dirs)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and draw."""
    run_cli(parse, draw, argv)


def parse(arguments: list[str]) -> CompareConfig:
    """The options, with the folders checked."""
    config = parse_options(CompareConfig, arguments, prog=command_name("compare"))
    for path in config.run_dirs:
        RunFolder.open(path)
    check_writable(config.out)
    return config


def draw(options: CompareConfig) -> None:
    """Write the pictures and print best, last and seconds to each threshold."""
    from dipod_jax.studies.comparison import compare

    print(compare(options.run_dirs, options.out, labels=options.labels, title=options.title, x=options.x))
    print(f"pictures are in {options.out}")


if __name__ == "__main__":
    main()
