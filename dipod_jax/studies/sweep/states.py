"""The progress of a sweep, read from its folder alone, on any machine, while others train."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.runs._disk import read_bytes, read_end, write_json
from dipod_jax.runs.lock import FolderLock, check_free, read_owner
from dipod_jax.runs.places import METRICS
from dipod_jax.runs.schema import checked_record, is_text, parse_object, parse_value
from dipod_jax.studies.sweep.plan import Unit

State = Literal["done", "failed", "running", "waiting"]
TRIES = 2  # of a unit in one session: a command with all its workers
FAILURES, LOG = "failures.json", "output.log"
TAIL_BYTES = 2**15
MAX_FAILURES_BYTES = 2**24


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
    """The unit's state: done, pictures included; failed as often as one session tries; held by a living process; or
    waiting."""
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
    """The process on this machine that holds the unit, or held it when it ended."""
    owner = read_owner(unit.logs)
    return owner["pid"] if owner is not None and owner["host"] == socket.gethostname() else None


def take(unit: Unit) -> FolderLock | None:
    """The lock that gives the right to train the unit; None if another living process has it."""
    unit.logs.mkdir(parents=True, exist_ok=True)
    try:
        return FolderLock(unit.logs)
    except RunFolderError:
        return None


def failures(unit: Unit, session: str | None = None) -> list[dict[str, Any]]:
    """What went wrong with the unit, oldest first: {"session", "at", "by", "error"}; of one session or of all."""
    try:
        found = parse_value(read_bytes(unit.logs / FAILURES, MAX_FAILURES_BYTES))
        known = [failure for failure in found if is_text(failure["session"]) and is_text(failure["error"])]
    except (OSError, ValueError, RunFolderError, TypeError, KeyError):
        return []
    return [failure for failure in known if session in (None, failure["session"])]


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
        env_steps = max(env_steps, record["env_steps"])
        if record["kind"] == "evaluation" and not math.isnan(record["return_mean"]):
            returns.setdefault(record["seed"], record["return_mean"])
    return Position(env_steps, sum(returns.values()) / len(returns) if returns else None)


def _last_records(unit: Unit) -> list[dict[str, Any]]:
    try:
        lines = read_end(unit.folder / METRICS, TAIL_BYTES * len(unit.config.all_seeds)).splitlines()
    except (OSError, RunFolderError):
        return []
    records = []
    for line in lines:
        try:
            records.append(checked_record(parse_object(line)))
        except ValueError:  # cut at either end
            continue
    return records


def last_lines(unit: Unit, count: int = 5) -> list[str]:
    """The end of what the unit's last try has printed."""
    try:
        text = read_end(unit.logs / LOG, TAIL_BYTES).decode(errors="replace")
    except (OSError, RunFolderError):
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def describe_failed(units: list[Unit], session: str, say: Callable[[str], None]) -> None:
    """Name every failed unit with its error, its log and the log's last lines."""
    for unit in units:
        error = next((failure["error"] for failure in reversed(failures(unit, session))), "it is not finished")
        say(f"failed: {unit.name}: {error}; all of it is in {unit.logs / LOG}")
        for line in last_lines(unit):
            say(f"    {line}")
