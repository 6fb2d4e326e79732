"""One page that shows a run: its configuration, its result, and its pictures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipod_jax.report._page import MAX_EMBEDDED_BYTES, REPORT, embedded, flatten, rendered, setting
from dipod_jax.runs._disk import write_text
from dipod_jax.runs.folder import RunFolder
from dipod_jax.tables import duration, number_or_dash, short_number, shown_return

EVALUATION_STEPS = 1000
# Objectives of folders from before an objective held its own options -> the section that held them.
_OLD_SECTIONS = {"fpo": "fpo", "ppo": "ppo", "exact-ppo": "ppo"}


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` into the run's folder and return its path.

    The page is self-contained: curves, drift plot and films are embedded (one of more than 12 MB is linked). What the
    run has not written yet is left out. `config.json` and `result.json` are shown as they are; nothing is computed.
    """
    path = folder.path / REPORT
    write_text(path, rendered("run.html", _content(folder)))
    return path


def objective_of(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The objective's name (None if there is none) and its options, from a stored config.

    Two forms are read: `{"objective": {"name": "fpo", "clip_epsilon": 0.05}}`, and that of older folders,
    `{"objective": "fpo", "fpo": {"clip_epsilon": 0.05}}`.
    """
    objective = config.get("objective")
    if isinstance(objective, Mapping):
        options = dict(objective)
        name = options.pop("name", None)
        return config.get("method", name), options  # a method over tokens is an objective with other defaults
    return objective, dict(config.get(_OLD_SECTIONS.get(str(objective), ""), {}))


def _content(folder: RunFolder) -> dict[str, Any]:
    """The variables of the template."""
    result = folder.read_result()
    provenance = dict(folder.provenance)
    command = provenance.pop("command", None)
    tables = {"Configuration": folder.config, "Provenance": provenance, "Everything in result.json": result or {}}
    return {
        "title": _title(folder.config),
        "subtitle": _subtitle(folder, ended=result is not None),
        "numbers": _numbers(result or {}),
        "notes": _notes(folder.config, result or {}),
        "seeds": _seeds(result or {}),
        "returns": embedded(folder.path / "returns.png", "image/png", MAX_EMBEDDED_BYTES),
        "films": _films(folder, result or {}),
        "drift": embedded(folder.path / "drift.png", "image/png", MAX_EMBEDDED_BYTES),
        "command": command,
        "tables": {name: flatten(values) for name, values in tables.items() if values},
    }


def _films(folder: RunFolder, result: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(caption, source) of each film: of the seeds with the best and the worst final return."""
    final = result.get("final_return")
    per_seed = final.get("per_seed", []) if isinstance(final, dict) else []
    returns = dict(zip(result.get("seeds", []), per_seed, strict=False))
    known = lambda seed: isinstance(returns.get(seed), (int, float))
    caption = lambda seed: f"seed {seed}" + (f", final return {shown_return(returns[seed])}" if known(seed) else "")
    source = lambda path: embedded(path, "video/mp4", MAX_EMBEDDED_BYTES)
    return [(caption(seed), source(path)) for seed, path in folder.films().items()]


def _title(config: dict[str, Any]) -> str:
    objective = config.get("method") or objective_of(config)[0]  # of tokens, a method has a name of its own
    beta = config.get("beta")
    beta = "" if beta is None else f"beta {setting(beta)}"
    return " · ".join(str(part) for part in (config.get("task", "run"), objective, beta) if part)


def _subtitle(folder: RunFolder, *, ended: bool) -> str:
    created = str(folder.provenance.get("created", "")).replace("T", " ").replace("+00:00", " UTC")
    machine = folder.provenance.get("machine") or {}
    device = f"{machine.get('device_kind', 'unknown device')}, {machine.get('cpu_count', '?')} CPUs"
    return f"started {created} on {device}{'' if ended else ' · this run has not ended'}"


def _numbers(result: dict[str, Any]) -> list[tuple[str, str]]:
    """(number, label) of the headline figures; one that the result lacks is omitted."""
    items = _accuracies(result) or _returns(result)
    for key, label, text in (
        ("samples", "answers learned from", short_number),
        ("env_steps", "env steps", short_number),
        ("wall_clock_s", "wall-clock time", duration),
        ("env_steps_per_s", "env steps/s", short_number),
    ):
        if isinstance(result.get(key), (int, float)):
            items.append((text(result[key]), label))
    return items


def _returns(result: dict[str, Any]) -> list[tuple[str, str]]:
    items = []
    for key, label in (("final_return", "final return"), ("final_return_zero_noise", "final return, zero noise")):
        final = result.get(key)
        if isinstance(final, dict) and isinstance(final.get("mean"), (int, float)):
            items.append((f"{shown_return(final['mean'])}{_interval(final)}", label))
    return items


# What a language run measures at its end, by its name in result.json -> label.
_OF_LANGUAGE = {
    "greedy": "greedy accuracy",
    "sampled": "sampled accuracy",
    "random_order": "accuracy in random order",
    "greedy_validity": "well-formed answers",
    "drift/gap": "gap, nats",
    "drift/eubo_gap": "EUBO gap, nats",
    "drift/entropy": "entropy, nats",
    "drift/gradient_cosine": "cosine with the true gradient",
}


def _accuracies(result: dict[str, Any]) -> list[tuple[str, str]]:
    final = result.get("final")
    found = {name: final.get(name) or {} for name in _OF_LANGUAGE} if isinstance(final, dict) else {}
    return [
        (f"{each['mean']:.2f}{_interval(each)}", _OF_LANGUAGE[name])
        for name, each in found.items()
        if isinstance(each.get("mean"), (int, float)) and math.isfinite(each["mean"])
    ]


def _interval(final: dict[str, Any]) -> str:
    """` ± 12`, half the width of the interval of a mean; nothing where there is none or all returns are equal."""
    bounds = final.get("ci95")
    half = 0.0 if bounds is None else (bounds[1] - bounds[0]) / 2
    return "" if half == 0 else f" ± {half:.0f}" if half >= 1 else f" ± {half:.1g}"


def _notes(config: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Remarks that the numbers need."""
    final = result.get("final_return")
    notes = []
    if isinstance(final, dict) and final.get("ci95") is not None and final.get("ci95_over"):
        over = final["ci95_over"]
        if _interval(final):
            notes.append(f"± is the 95 % interval of the mean over {over}.")
        elif final["mean"] == 0:
            notes.append(f"All {over} returned exactly 0: the policy was never rewarded.")
        else:
            notes.append(f"All {over} returned the same.")
    length = (config.get("rollout") or {}).get("episode_length")
    if result and length is not None and length != EVALUATION_STEPS:
        notes.append(
            f"Returns here are sums over episodes of {EVALUATION_STEPS} steps. Training truncates its episodes after "
            f"{length}, so episode_return in metrics.jsonl and in the event log is smaller."
        )
    if diverged := result.get("diverged_seeds"):
        notes.append(
            f"Diverged: seed {', '.join(map(str, diverged))}. The return is that of the policy it was left with."
        )
    if result.get("note"):
        notes.append(f"{result['note']}.")
    return notes


def _seeds(result: dict[str, Any]) -> dict[str, list[str]]:
    """Column -> one cell per seed: final returns, and the time to each return threshold."""
    seeds = result.get("seeds")
    if not isinstance(seeds, list):
        return {}
    columns: dict[str, Any] = {"seed": seeds}
    if _accuracies(result):
        for key, label in _OF_LANGUAGE.items():
            per_seed = (result["final"].get(key) or {}).get("per_seed") or ()
            columns[label] = [number_or_dash(value, ".2f") for value in per_seed]
    else:
        for key, label in {"final_return": "final return", "final_return_zero_noise": "zero noise"}.items():
            columns[label] = (result.get(key) or {}).get("per_seed")
    columns |= {f"seconds to {target}": times for target, times in (result.get("seconds_to") or {}).items()}
    return {
        label: [_cell(value) for value in values]
        for label, values in columns.items()
        if isinstance(values, list) and len(values) == len(seeds)
    }


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
