"""The study's output: tables, every seed's numbers as CSV, and a figure, from the runs that have ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dipod_jax.language import TASKS
from dipod_jax.runs import RunFolder
from dipod_jax.runs._disk import write_text
from dipod_jax.runs.folder import MAX_CONFIG_BYTES, RESULT
from dipod_jax.runs.schema import (
    Check,
    check_fields,
    is_count,
    is_group,
    is_number,
    is_summary,
    is_text,
    list_of,
    read_json,
    whole,
)
from dipod_jax.studies.table1.arms import FAMILY, TABLE_METHODS
from dipod_jax.studies.table1.picture import draw
from dipod_jax.tables import as_csv, mean_of_numbers, number_or_dash, table

ARM = "arm.json"
TABLE, SEEDS, PICTURE = "table1.md", "table1.csv", "table1.png"
BETAS = (0.0, 0.01, 0.05, "auto")
DIPOD = 0.05  # its beta in the paper's form
PAPER_NOTE = "Greedy accuracy after the last iteration; DiPOD is a beta of .05. `fpo-released` is the paper's FPO*."
LATE = 3  # measurements
# Column of the CSV -> its name in result.json.
MEASURED = {
    "greedy": "greedy",
    "sampled": "sampled",
    "random_order": "random_order",
    "validity": "greedy_validity",
}
# Column of the CSV -> its name in metrics.jsonl, of which the mean over the last measurements is taken.
LATELY = {
    "gap": "drift/gap",
    "decoder_gap": "drift/decoder_gap",
    "eubo_gap": "drift/eubo_gap",
    "entropy": "drift/entropy",
    "cosine": "drift/gradient_cosine",
}
NOTE = """\
- greedy, sampled, random order: share of 512 held-out problems solved after the last iteration, by the decoder that
  acts at temperature 0 and at its own, and one token a step in random order; the mean over seeds, in brackets each seed
- gap: log-likelihood under random order less the exact ELBO, nats; entropy: of the decoder that acts, nats; cosine: of
  the objective's gradient with that of the exact likelihood; the mean over the last three measurements, each of 8
  answers of the policy to each of two training prompts, and over seeds, in brackets each seed; where the answers to
  both prompts earn the same there is no cosine. With beta auto they are of iterations ten apart, else fifteen
- before: greedy, before post-training
- net beta: what multiplies the negative ELBO, with what the method's own code adds
"""

Record = dict[str, Any]


def write_results(out: Path) -> Path:
    """Write the tables, the CSV and the figure into the study's folder; returns the tables' path."""
    records = read_records(out)
    tasks = list(dict.fromkeys(r["task"] for r in records))
    parts = [f"## In the paper's form\n\n{PAPER_NOTE}\n\n{table(paper_rows(tasks, records))}\n"] if tasks else []
    parts += [part for task in tasks for part in _task_parts(task, records)]
    write_text(out / TABLE, "\n".join([*parts, NOTE]))
    write_text(out / SEEDS, as_csv([row for record in records for row in record["rows"]]))
    curves = [record for record in records if record["method"] in TABLE_METHODS and not record["control"]]
    if curves:
        draw(curves, out / PICTURE)
    return out / TABLE


def read_records(out: Path) -> list[Record]:
    """Every arm of which a seed has ended: what `arm.json` says, `metrics`, and `rows`, one a seed."""
    records: dict[Path, Record] = {}
    for path in sorted(out.glob(f"*/*/*/{ARM}")):
        folder, arm = RunFolder.open(path.parent), _read_arm(path)
        record = records.setdefault(path.parent.parent, arm | {"metrics": [], "rows": []})
        metrics = folder.read_metrics()
        record["metrics"] += metrics
        record["rows"] += _seed_rows(arm, _read_result(folder), metrics)
    order = list(TASKS)
    return sorted(records.values(), key=lambda record: order.index(record["task"]))


def _read_arm(path: Path) -> Record:
    with whole(path, WAY_OUT):
        arm = read_json(path, MAX_CONFIG_BYTES)
        check_fields(arm, _ARM)
        betas = (0.0, FAMILY[arm["method"]]) if arm["method"] in FAMILY else BETAS
        check_fields(arm, {"beta": lambda value: value in betas and isinstance(value, (float, str))})
    return arm


def _read_result(folder: RunFolder) -> Record:
    """A finished run's result, with what the tables show of it."""
    result = folder.read_result() or {}  # `arm.json` is written after it
    with whole(folder.path / RESULT, WAY_OUT):
        check_fields(result, _RESULT)
        check_fields(result["before"], {"greedy": is_summary})
        for each in (result["before"]["greedy"], *result["final"].values()):
            if not (is_summary(each) and len(each["per_seed"]) == len(result["seeds"])):
                raise ValueError("a measurement has not one number a seed")
    return result


WAY_OUT = "delete its folder, and the same command runs it again"
_ARM: dict[str, Check] = {
    **dict.fromkeys(("group", "method", "control"), is_text),
    "task": lambda value: is_text(value) and value in TASKS,
    "learning_rate": is_number,
    "num_iterations": is_count,
}
_RESULT: dict[str, Check] = {
    **dict.fromkeys(("built_in_beta", "training_s", "wall_clock_s"), is_number),
    **dict.fromkeys(("before", "final"), is_group),
    "seeds": lambda value: list_of(is_count)(value) and value,
}


def _seed_rows(arm: Record, result: Record, metrics: Sequence[Record]) -> list[Record]:
    net = "auto" if arm["beta"] == "auto" else round(arm["beta"] + result["built_in_beta"], 6)
    of = lambda where, name, index: result[where][name]["per_seed"][index] if name in result[where] else None
    return [
        arm
        | {"net_beta": net, "seed": seed, "before": of("before", "greedy", index)}
        | {column: of("final", name, index) for column, name in MEASURED.items()}
        | {column: _lately(metrics, seed, name) for column, name in LATELY.items()}
        | {"training_s": result["training_s"], "wall_clock_s": result["wall_clock_s"]}
        for index, seed in enumerate(result["seeds"])
    ]


def _lately(metrics: Sequence[Record], seed: int, name: str) -> float | None:
    """The mean over a seed's last measurements, those of them that are numbers."""
    values = [record[name] for record in metrics if record["seed"] == seed and name in record]
    return mean_of_numbers(values[-LATE:])


def _task_parts(task: str, records: Sequence[Record]) -> list[str]:
    mine = [record for record in records if record["task"] == task]
    before = next(r["rows"][0]["before"] for r in sorted(mine, key=lambda r: r["group"] == "pretraining"))
    parts = [f"## {task.capitalize()}\n\nGreedy accuracy before post-training: {number_or_dash(before, '.3f')}.\n"]
    if cells := [r for r in mine if r["method"] in TABLE_METHODS and not r["control"]]:
        parts.append(f"{table(table_rows(cells))}\n")
    controls = [r for r in mine if r["control"] or r["method"] not in (*TABLE_METHODS, *FAMILY)]
    family = [r for r in mine if r["method"] in FAMILY and not r["control"]]
    for heading, some in (("Every cell", cells), ("Controls", controls), ("The wider family", family)):
        if some:
            parts.append(f"### {heading}\n\n{table([arm_row(record) for record in some])}\n")
    return parts


def table_rows(records: Iterable[Record]) -> list[dict[str, str]]:
    """One row per method, one column per beta, greedy accuracy in percent; a dash if no run has ended."""
    found = {(record["method"], record["beta"]): _mean(record["rows"], "greedy") for record in records}
    return [
        {"greedy accuracy, %": method}
        | {f"beta {beta:g}" if beta != "auto" else "beta auto": _percent(found.get((method, beta))) for beta in BETAS}
        for method in TABLE_METHODS
    ]


def paper_rows(tasks: Iterable[str], records: Iterable[Record]) -> list[dict[str, str]]:
    """One row per method with and without DiPOD, one column per task, as in table 1 of arXiv 2606.13795."""
    records = [record for record in records if not record["control"]]
    found = {(r["task"], r["method"], r["beta"]): _mean(r["rows"], "greedy") for r in records}
    return [
        {"method": f"{method}{' + DiPOD' if beta else ''}"}
        | {f"{task.capitalize()}, %": _percent(found.get((task, method, beta))) for task in tasks}
        for method in ("d1", "fpo-released", "fpo", "spg")
        for beta in (0.0, DIPOD)
    ]


def arm_row(record: Record) -> dict[str, str]:
    """One arm over its seeds."""
    rows = record["rows"]

    def with_each(name: str, form: str) -> str:
        each = " ".join(number_or_dash(row[name], ".2f") for row in rows)
        return f"{number_or_dash(_mean(rows, name), form)} ({each})"

    return {
        "method": record["method"],
        "control": record["control"] or "-",
        "net beta": str(rows[0]["net_beta"]),
        "rate": f"{record['learning_rate']:g}",
        "before": number_or_dash(_mean(rows, "before"), ".2f"),
        "greedy": with_each("greedy", ".3f"),
        "sampled": number_or_dash(_mean(rows, "sampled"), ".3f"),
        "random order": number_or_dash(_mean(rows, "random_order"), ".3f"),
        "gap": with_each("gap", ".2f"),
        "entropy": number_or_dash(_mean(rows, "entropy"), ".2f"),
        "cosine": with_each("cosine", ".2f"),
    }


def _mean(rows: Sequence[Record], name: str) -> float | None:
    return mean_of_numbers(row[name] for row in rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
