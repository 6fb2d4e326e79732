"""The command line that every benchmark has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dipod_jax.checks import require
from dipod_jax.cli import parse_options, run_cli
from dipod_jax.config import TASKS

AnyOptions = TypeVar("AnyOptions", bound="Options")


@dataclass(frozen=True)
class Options:
    """Options of every benchmark."""

    out: Path | None = None
    """folder for the JSON; default runs/bench/<time>"""
    repeats: int = 5
    """turns in which the variants are timed, >= 1; medians and ranges are over them"""

    def __post_init__(self):
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")

    @property
    def folder(self) -> Path:
        """Where the JSON goes."""
        return self.out or Path("runs/bench") / time.strftime("%Y%m%d-%H%M%S")


def require_each(allowed: Callable[[Any], bool], flag: str, values: Sequence[Any], what: str) -> None:
    """As `require`, for one or more values."""
    require(len(values) >= 1 and all(map(allowed, values)), flag, " ".join(map(str, values)), what)


def require_tasks(flag: str, tasks: Sequence[str]) -> None:
    """Refuse what is no task."""
    require_each(lambda t: t in TASKS, flag, tasks, ", ".join(TASKS))


def run(
    name: str, options_class: type[AnyOptions], measure: Callable[[AnyOptions], list], argv: Sequence[str] | None = None
) -> None:
    """Parse, set JAX up as training does, measure, print the table, write the JSON."""

    def parse(arguments: list[str]) -> AnyOptions:
        from dipod_jax.runs import check_writable

        options = parse_options(options_class, arguments, prog=f"python -m benchmarks.{name}")
        check_writable(options.folder)
        return options

    def main(options: AnyOptions) -> None:
        from benchmarks import _report

        started, folder = time.perf_counter(), options.folder
        rows = measure(options)
        print(_report.table(rows), flush=True)
        path = _report.write(folder, name, options, rows, time.perf_counter() - started)
        print(f"written to {path}", flush=True)

    run_cli(parse, main, argv)
