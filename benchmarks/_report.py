"""What a benchmark leaves: a table on the terminal and the same rows, with the machine's facts, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._timing import Sample, Spread, rate, speed_ratio
from dipod_jax import tables


@dataclass
class Row:
    """One measurement: a rate, and where there is one the ratio to a baseline of the same run."""

    what: str
    variant: str
    value: Spread
    unit: str
    ratio: Spread | None = None
    over: str | None = None
    cpu_time_ratio: float | None = None  # the same ratio per second of CPU time: what a busy machine leaves alone
    target: float | None = None
    note: str | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether the target is met by the median; None where there is none."""
        if self.target is None:
            return None
        if self.ratio is not None:
            return self.ratio.median >= self.target
        return self.value.median <= self.target  # a target without a baseline is a time


def compare(
    what: str,
    samples: dict[str, list[Sample]],
    baseline: str,
    *,
    unit: str = "env steps/s",
    targets: dict[str, float] | None = None,
    notes: dict[str, str] | None = None,
    cpu_time: bool = True,
) -> list[Row]:
    """Rows of interleaved variants, each against the variant `baseline`."""
    rows = []
    for name, own in samples.items():
        row = Row(what, name, rate(own), unit, samples=own, note=(notes or {}).get(name))
        if name != baseline:
            row.ratio, row.over = speed_ratio(own, samples[baseline]), baseline
            if cpu_time:
                row.cpu_time_ratio = speed_ratio(own, samples[baseline], of_cpu_time=True).median
            row.target = (targets or {}).get(name)
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line a row."""
    return tables.table([_cells(row) for row in rows])


def _cells(row: Row) -> dict[str, str]:
    ratio = "" if row.ratio is None else f"{row.ratio.median:.2f} ({row.ratio.low:.2f}-{row.ratio.high:.2f})"
    cpu = "" if row.cpu_time_ratio is None else f"{row.cpu_time_ratio:.2f}"
    target = "" if row.target is None else f"{'>=' if row.ratio is not None else '<='} {row.target:g}"
    verdict = {None: "", True: "met", False: "missed"}[row.met]
    note = " ".join(filter(None, (verdict, row.note)))
    return {
        "what": row.what,
        "variant": row.variant,
        "value": tables.short_number(row.value.median),
        "unit": row.unit,
        "ratio (min-max)": ratio,
        "over": row.over or "",
        "of cpu time": cpu,
        "target": target,
        "note": note,
    }


def machine() -> dict[str, Any]:
    """Cores, CPU model, versions, devices, load."""
    from dipod_jax.runs.provenance import provenance

    return provenance() | {"cpu_model": cpu_model(), "load_average": list(os.getloadavg())}


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(out: Path, name: str, options: Any, rows: Sequence[Row], seconds: float) -> Path:
    """Write OUT/NAME.json and return its path."""
    content = {
        "benchmark": name,
        "options": asdict(options),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "rows": [_plain(row) for row in rows],
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    return path


def _plain(row: Row) -> dict[str, Any]:
    spread = lambda s: None if s is None else s._asdict()
    samples = [s._asdict() for s in row.samples]
    return asdict(row) | {"value": spread(row.value), "ratio": spread(row.ratio), "samples": samples, "met": row.met}
