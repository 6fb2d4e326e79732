"""The plan of a sweep: what each unit trains, under an id that its numbers depend on, in two files that say so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.config import Config
from dipod_jax.envs.tasks import folder_name
from dipod_jax.runs import RunFolderError
from dipod_jax.runs._disk import write_json, write_text
from dipod_jax.runs.lock import locked
from dipod_jax.runs.places import CONFIG
from dipod_jax.runs.schema import check_fields, is_group, is_text, read_json
from dipod_jax.studies.begun import MAX_BYTES, STUDY
from dipod_jax.studies.sweep.rooms import UNCOUNTED, AnyConfig, read_config, room_of
from dipod_jax.tables import as_csv

MAX_PLAN_BYTES = 2**28
PLAN, TABLE, UNITS, LOGS = "plan.json", "plan.csv", "units", "logs"
ID_LENGTH = 10


@dataclass(frozen=True)
class Unit:
    """One config, trained with all of its seeds at once in a run folder of its own."""

    id: str
    config: AnyConfig
    """`out` is its folder; not to be resumed"""
    grid: Mapping[str, str]
    """the options that the sweep varies beside task, objective and beta, as typed"""
    options: str
    """the options that are the same for all units of its command, as typed"""

    @property
    def folder(self) -> Path:
        """Its run folder, `OUT/units/<name>`."""
        assert self.config.out is not None
        return self.config.out

    @property
    def name(self) -> str:
        """`<task>-<objective>-beta<beta>-<id>`."""
        return self.folder.name

    @property
    def sweep(self) -> Path:
        """The sweep's folder, OUT."""
        return self.folder.parent.parent

    @property
    def logs(self) -> Path:
        """The folder with the lock, the output and the errors of whoever trains it."""
        return self.sweep / LOGS / self.id

    @property
    def total_steps(self) -> int:
        """Env steps of all seeds together."""
        return self.config.planned_steps * len(self.config.all_seeds)

    def row(self) -> dict[str, str]:
        """Its row of `plan.csv`, but for what other units vary."""
        config = self.config
        return {
            "id": self.id,
            "task": config.task,
            "objective": config.method,
            "beta": config.beta_label,
            "seeds": " ".join(map(str, config.all_seeds)),
            **self.grid,
            "options": self.options,
            "folder": f"{UNITS}/{self.name}",
        }


def make_unit(out: Path, config: AnyConfig, grid: Mapping[str, str] | None = None, options: str = "") -> Unit:
    """The unit of a resolved config in the sweep `out`. Paths in it become absolute, as workers may stand elsewhere."""
    paths = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    paths = {name: path.absolute() for name, path in paths.items() if isinstance(path, Path)}
    identity = unit_id(dataclasses.replace(config, **paths))
    name = f"{folder_name(config.task)}-{config.method}-beta{config.beta_label}-{identity}"
    placed: dict[str, Any] = {**paths, "out": out / UNITS / name, "resume": False}
    return Unit(identity, dataclasses.replace(config, **placed), grid or {}, options)


def unit_id(config: AnyConfig) -> str:
    """The first ten hexadecimal digits of a SHA-256 of the seeds and every option that a number depends on."""
    counted = {name: value for name, value in room_of(config).to_json(config).items() if name not in UNCOUNTED}
    counted |= {"seeds": config.all_seeds, "seed_list": None}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def check_place(out: Path) -> None:
    """Refuse a folder that is something else than a sweep's.

    Raises:
        ValueError: one line.
    """
    what = "{} there; name a folder that is new or holds a sweep"
    require(not out.exists() or out.is_dir(), "out", out, what.format("a file is"))
    require(not (out / CONFIG).exists(), "out", out, what.format("a run is"))
    another = (out / STUDY).exists() and not (out / PLAN).exists()
    require(not another, "out", out, what.format("another study is"))


def read_plan(out: Path) -> list[Unit]:
    """The units of the sweep `out` in the order in which they were planned.

    Raises:
        RunFolderError: there is no plan, or none that can be read.
    """
    path = out / PLAN
    try:
        planned = read_json(path, MAX_PLAN_BYTES)["units"]
        return [_from_json(out, entry) for entry in planned]
    except FileNotFoundError:
        raise RunFolderError(f"{out} holds no sweep: it has no {PLAN}; make one with dipod sweep --out {out}") from None
    except RunFolderError as error:
        raise RunFolderError(f"{error}; name another --out") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is not a sweep's plan ({error}); name another --out") from error


def extend_plan(out: Path, units: Sequence[Unit], command: str = "") -> list[Unit]:
    """Add units to the plan of `out`, which is made if it is new; returns all of them.

    Units keep their place, so that a shard stays what it is. One that is planned already takes the given options that
    change no number.

    Raises:
        RunFolderError: as `read_plan`, or another command has the plan for long.
        ValueError: as `check_comparable`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        before = read_plan(out) if (out / PLAN).exists() else []
        check_comparable([*before, *units])
        together = list(({unit.id: unit for unit in before} | {unit.id: unit for unit in units}).values())
        rows = [unit.row() for unit in together]
        columns = _in_order(rows)
        write_text(out / TABLE, as_csv([{name: row.get(name, "") for name in columns} for row in rows]))
        write_json(out / PLAN, {"units": [_to_json(unit) for unit in together]})
        write_json(out / STUDY, {"commands": list(dict.fromkeys([*planned_by(out), command]))})
    return together


def planned_by(out: Path) -> list[str]:
    """The commands that have planned the study in `out`, each once, oldest first; none where that was not noted."""
    try:
        noted = read_json(out / STUDY, MAX_BYTES)
    except (OSError, RunFolderError):
        return []
    commands = noted.get("commands", [noted.get("command")])
    return [each for each in commands if is_text(each)] if isinstance(commands, list) else []


def check_comparable(units: Sequence[Unit]) -> None:
    """Refuse units of two rooms, whose returns have no common scale, or on different physics.

    Raises:
        ValueError: one line.
    """
    first = units[0].config
    for config in (unit.config for unit in units):
        what = f"those of dipod {room_of(first).command}, as {first.task}, which this sweep has already"
        require(config.room == first.room, "task", config.task, what)
        if isinstance(config, Config) and isinstance(first, Config):
            what = f"{first.backend}, the physics of this sweep's other units"
            require(config.backend == first.backend, "backend", config.backend, what)


def _is_name(value: Any) -> bool:
    """Whether it names an entry of a folder, and nothing outside."""
    return is_text(value) and value not in ("", ".", "..") and not {"/", "\0"} & set(value)


_ENTRY = {
    "id": _is_name,
    "name": _is_name,
    "grid": lambda value: is_group(value) and all(map(is_text, value.values())),
    "options": is_text,
    "config": is_group,
}


def _in_order(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns of all rows: what every unit has, with what some vary before the last two."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    last = [name for name in ("options", "folder") if name in names]
    return [name for name in names if name not in last] + last


def _to_json(unit: Unit) -> dict[str, Any]:
    config = {**room_of(unit.config).to_json(unit.config), "out": None}
    return {"id": unit.id, "name": unit.name, "grid": dict(unit.grid), "options": unit.options, "config": config}


def _from_json(out: Path, entry: Mapping[str, Any]) -> Unit:
    check_fields(entry, _ENTRY)
    config = dataclasses.replace(read_config(entry["config"]), out=out / UNITS / entry["name"])
    return Unit(entry["id"], config, entry["grid"], entry["options"])
