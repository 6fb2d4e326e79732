"""Every benchmark, one after the other, each in a process of its own: `python -m benchmarks.all`, or `make bench`.

Prints each table as it comes, then the rows that have a target; writes one JSON a benchmark and `summary.json`. Within
10 minutes on two idle cores or one GPU; a benchmark that fails or takes too long is named, and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._command import Options, require_each
from dipod_jax.checks import require
from dipod_jax.cli import parse_options, run_cli
from dipod_jax.tables import table

NAMES = ("startup", "physics", "rollout", "update", "evaluation", "end_to_end")


@dataclass(frozen=True)
class AllOptions(Options):
    """Run every benchmark."""

    repeats: int = 3
    """turns in which the variants of each benchmark are timed, >= 1"""
    only: tuple[str, ...] = NAMES
    """benchmarks to run: startup, physics, rollout, update, evaluation, end_to_end"""
    timeout: float = 600.0
    """seconds after which one benchmark is given up, > 0"""

    def __post_init__(self):
        super().__post_init__()
        require(self.timeout > 0, "timeout", self.timeout, "more than 0")
        require_each(lambda n: n in NAMES, "only", self.only, ", ".join(NAMES))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, summarise; exit status 1 where a benchmark failed."""
    run_cli(_parse, _run, argv)


def _parse(arguments: list[str]) -> AllOptions:
    from dipod_jax.runs import check_writable

    options = parse_options(AllOptions, arguments, prog="python -m benchmarks.all")
    check_writable(options.folder)
    return options


def _run(options: AllOptions) -> None:
    started, out = time.perf_counter(), options.folder
    statuses = {name: _run_one(name, options, out) for name in options.only}
    summary = {"statuses": statuses, "targets": _with_target(out, [n for n in statuses if statuses[n] == "done"])}
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("\nRows with a target. Where the range is wide, other processes were using the machine: trust CPU time.")
    if summary["targets"]:
        print(table([_cells(row) for row in summary["targets"]]))
    print(f"{time.perf_counter() - started:.0f} s; written to {out}")
    failed = [name for name, status in statuses.items() if status != "done"]
    if failed:
        print("error: " + ", ".join(f"{name} {statuses[name]}" for name in failed), file=sys.stderr)
        sys.exit(1)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    spread = row["ratio"] or row["value"]
    return {
        "benchmark": row["benchmark"],
        "what": row["what"],
        "variant": row["variant"],
        "measured": f"{spread['median']:.2f}",
        "min-max": f"{spread['low']:.2f}-{spread['high']:.2f}",
        "of cpu time": "" if row["cpu_time_ratio"] is None else f"{row['cpu_time_ratio']:.2f}",
        "target": f"{'>=' if row['ratio'] else '<='} {row['target']:g} {'met' if row['met'] else 'missed'}",
    }


def _run_one(name: str, options: AllOptions, out: Path) -> str:
    print(f"\n== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), "--repeats", str(options.repeats)]
    try:
        status = subprocess.run(command, timeout=options.timeout).returncode
    except subprocess.TimeoutExpired:
        return f"took more than {options.timeout:g} s"
    return "done" if status == 0 else f"ended with status {status}"


def _with_target(out: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for row in json.loads((out / f"{name}.json").read_text())["rows"]:
            if row["target"] is not None:
                rows.append({"benchmark": name} | {k: v for k, v in row.items() if k != "samples"})
    return rows


if __name__ == "__main__":
    main()
