"""Runs beside each other: `python -m experiments.compare RUN_DIR RUN_DIR ... --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.cli import parse_options, run_cli
from dipod_jax.runs import RunFolder, RunFolderError, check_writable
from dipod_jax.tables import table


@dataclass(frozen=True)
class CompareConfig:
    """Draw returns.png and drift.png of several runs of a task, a colour each, and print a table."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run folders, one or more"""
    out: Path = Path("runs/comparison")
    """folder of the pictures"""
    labels: tuple[str, ...] | None = None
    """a name for each run, default objective and beta; runs of one name are drawn as seeds of one curve"""
    title: str | None = None
    """heading; default the task"""
    x: Literal["wall_clock_s", "env_steps"] = "env_steps"
    """horizontal axis of returns.png"""

    def __post_init__(self):
        if not self.run_dirs:
            raise ValueError("run_dirs: value missing; allowed: one or more run folders")
        if self.labels is not None and len(self.labels) != len(self.run_dirs):
            raise ValueError(f"--labels {' '.join(self.labels)} is not allowed: {len(self.run_dirs)} names")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and draw."""
    run_cli(parse, draw, argv)


def parse(arguments: list[str]) -> CompareConfig:
    """The options, with the folders checked."""
    config = parse_options(CompareConfig, arguments, prog="python -m experiments.compare")
    for path in config.run_dirs:
        RunFolder.open(path)
    check_writable(config.out)
    return config


def draw(options: CompareConfig) -> None:
    """Write the pictures and print best, last and seconds to each threshold."""
    from dipod_jax.viz import DriftRecords, plot_comparison, plot_drift_comparison

    folders = [RunFolder.open(path) for path in options.run_dirs]
    records_of_run = [_records(folder) for folder in folders]
    labels = options.labels or _labels(folders)
    metrics: dict[str, list[dict]] = {}
    for label, folder, records in zip(labels, folders, records_of_run, strict=True):
        known = {record["seed"] for record in metrics.get(label, [])}
        if repeated := known & {record["seed"] for record in records}:
            raise RunFolderError(
                f"{folder.path}: seed {min(repeated)} is in {label!r} already; give --labels that differ"
            )
        metrics.setdefault(label, []).extend(records)
    split = {
        label: DriftRecords(
            [r for r in records if r["kind"] != "evaluation"], [r for r in records if r["kind"] == "evaluation"]
        )
        for label, records in metrics.items()
    }
    title = options.title or ", ".join(dict.fromkeys(folder.config["task"] for folder in folders))
    evaluations = {label: run.evaluations for label, run in split.items()}
    plot_comparison(evaluations, options.out / "returns.png", x=options.x, title=title)
    plot_drift_comparison(split, options.out / "drift.png", title=title)
    print(table([row(label, records) for label, records in evaluations.items()]))
    print(f"pictures are in {options.out}")


def row(label: str, evaluations: list[dict]) -> dict[str, str]:
    """Best and last evaluation return of every seed of a run, with the seconds to each threshold."""
    from dipod_jax.training.results import best_and_last, seconds_to

    seeds = tuple(dict.fromkeys(r["seed"] for r in evaluations))
    returns = {name: " ".join(f"{x:.0f}" for x in xs) for name, xs in best_and_last(evaluations, seeds).items()}
    times = {
        f"seconds to {threshold}": " ".join("-" if t is None else f"{t:.0f}" for t in reached)
        for threshold, reached in seconds_to(evaluations, seeds).items()
    }
    return {"run": label, **returns, **times}


def _records(folder: RunFolder) -> list[dict]:
    records = folder.read_metrics()
    if not any(record.get("kind") == "evaluation" for record in records):
        raise RunFolderError(
            f"{folder.path} has no evaluation to draw; name the folder of a training run that has begun"
        )
    return records


def _labels(folders: list[RunFolder]) -> list[str]:
    names = [f"{f.config['objective']}, beta {f.config['beta']}" for f in folders]
    return names if len(set(names)) == len(names) else [str(f.path) for f in folders]


if __name__ == "__main__":
    main()
