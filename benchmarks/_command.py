"""The command line that every benchmark has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import _report
from dipod_jax.checks import Checked, require
from dipod_jax.cli import parse_options, run_cli
from dipod_jax.runs import check_writable

AnyOptions = TypeVar("AnyOptions", bound="Options")


@dataclass(frozen=True)
class Options:
    """Options of every benchmark."""

    out: Path | None = None
    """folder for the JSON; default runs/bench/<time>"""
    repeats: int = 3
    """turns in which the variants are timed, >= 1; medians and ranges are over them"""

    def __post_init__(self):
        Checked(self).number("repeats", low=1)

    @property
    def folder(self) -> Path:
        """Where the JSON goes, once the command line is read."""
        assert self.out is not None
        return self.out


def check_each(check: Callable[..., None], flag: str, values: Sequence[Any], *allowed: Any) -> None:
    """One of `dipod_jax.checks`, for each of one or more values: `check(flag, value, *allowed)`."""
    require(len(values) >= 1, flag, "without a value", "one or more")
    for value in values:
        check(flag, value, *allowed)


def run(
    name: str,
    options_class: type[AnyOptions],
    measure: Callable[[AnyOptions], list[_report.Row]],
    argv: Sequence[str] | None = None,
) -> None:
    """Parse, measure, print the table, write the JSON."""

    def parse(arguments: list[str]) -> AnyOptions:
        options = parse_options(options_class, arguments, prog=f"python -m benchmarks.{name}")
        out = options.out or Path("runs/bench") / time.strftime("%Y%m%d-%H%M%S")
        check_writable(out)
        return replace(options, out=out)

    def main(options: AnyOptions) -> None:
        started = time.perf_counter()
        rows = measure(options)
        print(_report.table([row.record() for row in rows]), flush=True)
        path = _report.write(options.folder, name, options, rows, time.perf_counter() - started)
        print(f"written to {path}", flush=True)

    run_cli(parse, main, argv)
