"""How far a sweep is, read from its folder alone: by whoever asks, on any machine, while others train."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.runs._disk import write_json
from dipod_jax.runs.lock import FolderLock, check_free, read_owner
from dipod_jax.runs.places import METRICS
from dipod_jax.studies.sweep.plan import Unit

State = Literal["done", "failed", "running", "waiting"]
TRIES = 2  # of a unit in one session: a command with all its workers
FAILURES, LOG = "failures.json", "output.log"
TAIL_BYTES = 2**15


class Position(NamedTuple):
    """Where a run stands, as its records say."""

    env_steps: int
    """of each seed"""
    last_return: float | None
    """mean over the seeds of the last evaluation"""


def is_done(unit: Unit) -> bool:
    """Whether the unit's result is complete and reaches as far as planned."""
    try:
        return RunFolder.open(unit.folder).has_reached(unit.config.planned_steps)
    except RunFolderError:
        return False


def state_of(unit: Unit, session: str) -> State:
    """Done, its pictures too; failed as often as one session tries; had by a process that lives; or waiting for one."""
    if is_done(unit):
        return "running" if is_taken(unit) else "done"  # it draws when its result is written
    if len(failures(unit, session)) >= TRIES:
        return "failed"
    return "running" if is_taken(unit) else "waiting"


def is_taken(unit: Unit) -> bool:
    """Whether a living process has the unit."""
    try:
        check_free(unit.logs)
    except RunFolderError:
        return True
    return False


def owner_of(unit: Unit) -> int | None:
    """The process on this machine that has, or had when it ended, the unit."""
    owner = read_owner(unit.logs)
    return owner["pid"] if owner is not None and owner["host"] == socket.gethostname() else None


def take(unit: Unit) -> FolderLock | None:
    """The right to train the unit; None where another living process has it."""
    unit.logs.mkdir(parents=True, exist_ok=True)
    try:
        return FolderLock(unit.logs)
    except RunFolderError:
        return None


def failures(unit: Unit, session: str | None = None) -> list[dict[str, Any]]:
    """What went wrong with the unit, oldest first: {"session", "at", "by", "error"}; of one session or of all."""
    try:
        found = json.loads((unit.logs / FAILURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [failure for failure in found if session in (None, failure["session"])]


def record_failure(unit: Unit, session: str, error: str) -> None:
    """Note a try that failed; whoever does has the unit, or knows that who had it is dead."""
    by = f"process {os.getpid()} on {socket.gethostname()}"
    failure = {"session": session, "at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by, "error": error}
    unit.logs.mkdir(parents=True, exist_ok=True)
    write_json(unit.logs / FAILURES, [*failures(unit), failure])


def position(unit: Unit) -> Position:
    """Where the run of a unit stands, from the end of its metrics; the beginning where there is none."""
    env_steps, returns = 0, {}
    for record in reversed(_last_records(unit)):
        env_steps = max(env_steps, record.get("env_steps", 0))
        if record.get("kind") == "evaluation" and record.get("return_mean") is not None:
            returns.setdefault(record.get("seed"), record["return_mean"])
    return Position(env_steps, sum(returns.values()) / len(returns) if returns else None)


def _last_records(unit: Unit) -> list[dict[str, Any]]:
    try:
        lines = _tail(unit.folder / METRICS).splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut at either end
            continue
        records += [record] if isinstance(record, dict) else []
    return records


def last_lines(unit: Unit, count: int = 5) -> list[str]:
    """The end of what the unit's last try has printed."""
    try:
        text = _tail(unit.logs / LOG)
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _tail(path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace")


def describe_failed(units: list[Unit], session: str, say: Callable[[str], None]) -> None:
    """Name every failed unit with its error, its log and the log's last lines."""
    for unit in units:
        error = next((failure["error"] for failure in reversed(failures(unit, session))), "it is not finished")
        say(f"failed: {unit.name}: {error}; all of it is in {unit.logs / LOG}")
        for line in last_lines(unit):
            say(f"    {line}")
