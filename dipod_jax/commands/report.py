"""The page that shows a run, a study or several runs: `dipod report FOLDER ...`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.runs import RunFolder, RunFolderError, check_writable
from dipod_jax.runs.places import CONFIG

DEFAULT_OUT = Path("runs/report")


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html. For one run it shows the config, the result, the pictures and the film. For a study (a folder
    with units/) or several runs it shows statistics; figure2.png, figure2.pdf, results.csv, results.md and
    curves.parquet are written beside it."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """a run folder, a study's folder, or several run folders"""
    out: Path | None = None
    """folder for the report of several runs; none: runs/report. The report of one run or study goes into its own
    folder"""

    def __post_init__(self):
        if not self.folders:
            raise ValueError("FOLDERS is required: a run folder, a study's folder, or several run folders")
        single = len(self.folders) == 1
        require(not single or self.out is None, "out", self.out, "left out: the page goes into the folder itself")

    @property
    def place(self) -> Path:
        """The folder that takes the page."""
        return self.folders[0] if len(self.folders) == 1 else self.out or DEFAULT_OUT


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and write the page."""
    run_cli(parse, write, argv)


def parse(arguments: list[str]) -> ReportConfig:
    """The options, with the folders checked."""
    options = parse_options(ReportConfig, arguments, prog=command_name("report"))
    if not _is_study(options):
        for folder in options.folders:
            _open_run(folder)
    check_writable(options.place, "FOLDERS" if len(options.folders) == 1 else "--out")
    return options


def write(options: ReportConfig) -> None:
    """Write the page and say where it is."""
    from dipod_jax.report import write_report, write_runs_report, write_study_report

    if _is_study(options):
        page = write_study_report(options.folders[0])
    elif len(options.folders) == 1:
        page = write_report(RunFolder.open(options.folders[0]))
    else:
        page = write_runs_report(options.folders, options.place)
    print(f"report: {page}")


def _open_run(folder: Path) -> None:
    """Raise RunFolderError unless `folder` is a run's."""
    from dipod_jax.studies.sweep.plan import PLAN

    try:
        RunFolder.open(folder)
    except RunFolderError:
        if os.path.isdir(folder) and not os.path.exists(folder / CONFIG):
            what = f"neither a run folder (it has no {CONFIG}) nor a study's (it has no units)"
            if os.path.exists(folder / PLAN):
                what = "a sweep none of whose runs has begun; give its command again, or submit its jobs"
            raise RunFolderError(f"{folder} is {what}") from None
        raise


def _is_study(options: ReportConfig) -> bool:
    from dipod_jax.studies.collected import is_study

    return len(options.folders) == 1 and is_study(options.folders[0])


if __name__ == "__main__":
    main()
