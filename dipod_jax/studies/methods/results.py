"""The study's output: one table per task, every seed's numbers as CSV, and a picture, from the results so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dipod_jax.runs import RunFolderError
from dipod_jax.runs._disk import write_text
from dipod_jax.runs.folder import MAX_RESULT_BYTES
from dipod_jax.runs.schema import read_json
from dipod_jax.studies.methods.picture import draw
from dipod_jax.studies.methods.units import FAILURE, RESULT, read_result
from dipod_jax.tables import as_csv, mean_of_numbers, number_or_dash, short_number, table

TABLE, SEEDS, PICTURE = "comparison.md", "seeds.csv", "comparison.png"
LEARNED = 50.0  # a best return under this is none to fall from
NOTE = f"""\
- return: mean of 32 episodes after the last update, over the seeds, and in brackets that of each seed;
  with all the noise that the policy acts by: a flow's base noise, a chain's noise of every step, a Gaussian's
- zero noise: of as many episodes with all of it 0, mean over the seeds
- gap: log-likelihood less ELBO, nats an action; cosine: of the objective's gradient, without beta's term, with the
  exact policy gradient of the flow (of a method that acts by another sampler too: not of its own acting); both are
  means over the seeds and over the measurements in the second half of a run
- collapsed: seeds that end at no number, or under half of their best evaluation where that is {LEARNED:.0f} or more
- seconds: of acting and learning, all seeds at once
- rate, trust: factors on the preset's learning rate and on what bounds a step
- tuning: what chose the row's setting, all seeds and runs together, compilation included
"""

Record = dict[str, Any]


def write_results(out: Path) -> Path:
    """Write `comparison.md`, `seeds.csv` and `comparison.png` into the study's folder; returns the table's path."""
    records = read_records(out)
    reported = by_panel(record for record in records if record["reported"])
    parts = [f"## {name}\n\n{task_table(runs, records)}\n" for name, runs in reported.items()]
    failures = [f"- {path.parent.relative_to(out)}: {_error(path)}\n" for path in sorted(out.glob(f"*/*/*/{FAILURE}"))]
    if failures:
        parts.append(f"## Failed, and left out\n\n{''.join(failures)}")
    write_text(out / TABLE, "\n".join([*parts, NOTE]))
    write_text(out / SEEDS, as_csv([row for record in records for row in seed_rows(record)]))
    if reported:
        draw({name: [summary(run) for run in runs] for name, runs in reported.items()}, out / PICTURE)
    return out / TABLE


def read_records(out: Path) -> list[Record]:
    """Every result in the folder; reported or not; raises as `units.read_result`."""
    return [read_result(path) for path in sorted(out.glob(f"*/*/*/{RESULT}"))]


def by_panel(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of the same task and env steps together, under a name that says both."""
    panels: dict[str, list[Record]] = {}
    for record in records:
        name = f"{record['task']}, {short_number(record['env_steps'])} env steps"
        panels.setdefault(name, []).append(record)
    return panels


def summary(record: Record) -> dict[str, Any]:
    """One run's numbers over its seeds: objective, beta, each seed's return, and the means."""
    rows = seed_rows(record)
    numbers = {name: mean_of_numbers([row[name] for row in rows]) for name in ("return", "zero_noise", "gap", "cosine")}
    return {
        "objective": record["objective"],
        "beta": record["beta"],
        "returns": [row["return"] for row in rows],
        "collapsed": sum(row["collapsed"] for row in rows),
        **numbers,
    }


def seed_rows(record: Record) -> list[dict[str, Any]]:
    """A run's row of `seeds.csv` for each seed; None is what is not a number or was not measured."""
    run = {"run": "reported" if record["reported"] else "tuning"}
    run |= {name: record[name] for name in ("task", "objective", "rate", "trust", "beta", "env_steps")}
    rows = []
    for index, seed in enumerate(record["seeds"]):
        curve = [evaluation["return"][index] for evaluation in record["evaluations"]]
        best = max((x for x in curve if x is not None), default=None)
        late = [m for m in record["drift"] if m["env_steps"] >= record["env_steps"] / 2]
        rows.append(
            run
            | {
                "seed": seed,
                "return": curve[-1],
                "zero_noise": record["evaluations"][-1]["zero_noise"][index],
                "best": best,
                "collapsed": has_collapsed(curve[-1], best),
                "gap": mean_of_numbers([m["gap"][index] for m in late]),
                "cosine": mean_of_numbers([m["cosine"][index] for m in late]),
                "skipped_updates": record["skipped_updates"][index],
                "training_s_of_all_seeds": record["training_s"],
                "compile_s": record["compile_s"],
            }
        )
    return rows


def has_collapsed(last: float | None, best: float | None) -> bool:
    """Whether a seed ended at no number, or under half of a best return that was worth the name."""
    return last is None or best is None or (best >= LEARNED and last < best / 2)


def task_table(runs: Sequence[Record], records: Sequence[Record]) -> str:
    """The runs of one task, the highest mean return first."""
    order = sorted(runs, key=lambda run: -_or_lowest(summary(run)["return"]))
    return table([_row(run, records) for run in order])


def _row(run: Record, records: Sequence[Record]) -> dict[str, str]:
    found = summary(run)
    cost = [record for record in records if _tuned(run, record)]
    steps = sum(record["env_steps"] * len(record["seeds"]) for record in cost)
    seconds = sum(record["training_s"] + record["compile_s"] for record in cost)
    returns = " ".join(number_or_dash(x, ".0f") for x in found["returns"])
    return {
        "objective": run["objective"],
        "beta": f"{run['beta']:g}",
        "return": f"{number_or_dash(found['return'], '.0f')} ({returns})",
        "zero noise": number_or_dash(found["zero_noise"], ".0f"),
        "gap": number_or_dash(found["gap"], ".3g"),
        "cosine": number_or_dash(found["cosine"], ".2f"),
        "collapsed": f"{found['collapsed']} of {len(run['seeds'])}",
        "seconds": f"{run['training_s']:.0f}",
        "rate": f"{run['rate']:g}",
        "trust": f"{run['trust']:g}",
        "tuning": f"{short_number(steps)} env steps, {seconds:.0f} s",
    }


def _tuned(run: Record, record: Record) -> bool:
    """Whether a tuning run took part in choosing the setting of a reported one: a grid at beta 0, then the betas."""
    same = record["tuned_in"] == run["tuned_in"] and record["objective"] == run["objective"]
    return same and not record["reported"] and (run["beta"] > 0 or record["beta"] == 0)


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value


def _error(path: Path) -> str:
    try:
        return str(read_json(path, MAX_RESULT_BYTES)["error"])
    except (OSError, KeyError, RunFolderError):
        return "why is not known, as its file is damaged"
