"""Several runs beside each other: their curves in two pictures, their returns in a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dipod_jax.report import objective_of
from dipod_jax.report._page import setting
from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.tables import shown_return, table
from dipod_jax.training.results import best_and_last, seconds_to
from dipod_jax.viz import DriftRecords, plot_comparison, plot_drift_comparison
from dipod_jax.viz.curves import MAX_RETURN


def compare(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    x: Literal["wall_clock_s", "env_steps"] = "env_steps",
) -> str:
    """Draw `out`/returns.png and `out`/drift.png, one colour per label, and return a table of the returns.

    Args:
        run_dirs: run folders, one or more.
        out: the pictures' folder.
        labels: a name for each run, its objective and beta where None; runs of one name are seeds of one curve.
        title: heading; the runs' tasks where None.
        x: horizontal axis of returns.png.

    Raises:
        RunFolderError: a folder without an evaluation, or two runs of one label and one seed.
    """
    folders = [RunFolder.open(path) for path in run_dirs]
    runs = read_runs(folders, labels or default_labels(folders))
    title = title or ", ".join(dict.fromkeys(folder.config["task"] for folder in folders))
    evaluations = {label: run.evaluations for label, run in runs.items()}
    of_language = all(folder.room == "language" for folder in folders)  # whose rewards end at 1
    highest = 1.0 if of_language else MAX_RETURN
    plot_comparison(evaluations, out / "returns.png", x=x, title=title, highest=highest)
    plot_drift_comparison(runs, out / "drift.png", title=title)
    rows = [row(label, records) for label, records in evaluations.items()]
    if of_language:
        rows = [{name: cell for name, cell in of.items() if not name.startswith("seconds to")} for of in rows]
    return table(rows)


def read_runs(folders: Sequence[RunFolder], labels: Sequence[str]) -> dict[str, DriftRecords]:
    """Label -> metrics, those of several runs of one label together.

    Raises:
        RunFolderError: as `compare`.
    """
    runs: dict[str, DriftRecords] = {}
    for label, folder in zip(labels, folders, strict=True):
        records, evaluations = _metrics(folder)
        run = runs.setdefault(label, DriftRecords([], []))
        if repeated := _seeds(run.evaluations) & _seeds(evaluations):
            same = f"seed {min(repeated)} is in {label!r} already; give --labels that differ"
            raise RunFolderError(f"{folder.path}: {same}")
        run.records.extend(records)
        run.evaluations.extend(evaluations)
    return runs


def row(label: str, evaluations: list[dict[str, Any]]) -> dict[str, str]:
    """Best and last evaluation return of every seed of a run, with the seconds to each threshold."""
    seeds = tuple(dict.fromkeys(record["seed"] for record in evaluations))
    returns = {name: " ".join(map(shown_return, xs)) for name, xs in best_and_last(evaluations, seeds).items()}
    times = {
        f"seconds to {threshold}": " ".join("-" if t is None else f"{t:.0f}" for t in reached)
        for threshold, reached in seconds_to(evaluations, seeds).items()
    }
    return {"run": label, **returns, **times}


def default_labels(folders: Sequence[RunFolder]) -> list[str]:
    """Objective and beta of each run, or its path where these do not tell the runs apart."""
    names = [_label(folder.config) for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder.path) for folder in folders]


def _label(config: Mapping[str, Any]) -> str:
    return f"{objective_of(config)[0]}, beta {setting(config['beta'])}"


def _seeds(records: list[dict[str, Any]]) -> set[int]:
    return {record["seed"] for record in records}


def _metrics(folder: RunFolder) -> DriftRecords:
    everything = folder.read_metrics()
    evaluations = [record for record in everything if record.get("kind") == "evaluation"]
    if not evaluations:
        raise RunFolderError(
            f"{folder.path} has no evaluation to draw; name the folder of a training run that has begun"
        )
    return DriftRecords([record for record in everything if record.get("kind") != "evaluation"], evaluations)
