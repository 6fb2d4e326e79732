"""What a benchmark leaves: a table on the terminal and the same rows, with the machine's facts, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
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
    target: float | None = None  # from below for a ratio; a row without one is a time, with a target from above
    note: str | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        if self.target is None:
            return None
        return self.value.median <= self.target if self.ratio is None else self.ratio.median >= self.target

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"met": self.met}


def compare(
    what: str,
    samples: Mapping[str, list[Sample]],
    baseline: str,
    *,
    unit: str = "env steps/s",
    targets: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of interleaved variants, each against the variant `baseline`; CPU time is compared where JAX is on a CPU."""
    import jax

    rows = []
    for name, own in samples.items():
        row = Row(what, name, rate(own), unit, samples=own, note=(notes or {}).get(name))
        if name != baseline:
            row.ratio, row.over = speed_ratio(own, samples[baseline]), baseline
            if jax.default_backend() == "cpu":
                row.cpu_time_ratio = speed_ratio(own, samples[baseline], of_cpu_time=True).median
            row.target = (targets or {}).get(name)
        rows.append(row)
    return rows


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line for each row's record."""
    return tables.table([_cells(record) for record in records])


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    ratio, cpu, target = row["ratio"], row["cpu_time_ratio"], row["target"]
    verdict = {None: "", True: "met", False: "missed"}[row["met"]]
    return {
        "what": row["what"],
        "variant": row["variant"],
        "value": tables.short_number(row["value"]["median"]),
        "unit": row["unit"],
        "ratio (min-max)": f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "",
        "over": row["over"] or "",
        "of cpu time": "" if cpu is None else f"{cpu:.2f}",
        "target": "" if target is None else f"{'>=' if ratio else '<='} {target:g}",
        "note": " ".join(filter(None, (verdict, row["note"]))),
    }


def cpu_model() -> str:
    """The CPU's name, as Linux gives it, or else as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write(out: Path, name: str, options: Any, rows: Sequence[Row], seconds: float) -> Path:
    """Write OUT/NAME.json, with versions, devices, cores and load, and return its path."""
    from dipod_jax.runs.provenance import provenance

    content = {
        "benchmark": name,
        "options": asdict(options),
        "machine": provenance() | {"cpu_model": cpu_model(), "load_average": list(os.getloadavg())},
        "seconds": round(seconds, 1),
        "rows": [row.record() for row in rows],
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    return path
