"""The page that shows a run, written again: `dipod report RUN_DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.runs import RunFolder, check_writable


@dataclass(frozen=True)
class ReportConfig:
    """Write RUN_DIR/report.html from the files in the folder: config, result, pictures and film."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """a run folder"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and write the page."""
    run_cli(parse, write, argv)


def parse(arguments: list[str]) -> ReportConfig:
    """The options, with the folder checked."""
    options = parse_options(ReportConfig, arguments, prog=command_name("report"))
    RunFolder.open(options.run_dir)
    check_writable(options.run_dir)
    return options


def write(options: ReportConfig) -> None:
    """Write the page and say where it is."""
    from dipod_jax.report import write_report

    print(f"report: {write_report(RunFolder.open(options.run_dir))}")


if __name__ == "__main__":
    main()
