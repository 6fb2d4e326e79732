"""What the terminal shows while units train: one live table, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from dipod_jax.launch.base import Job
from dipod_jax.studies.sweep.plan import Unit
from dipod_jax.studies.sweep.reporting import draw
from dipod_jax.studies.sweep.states import State, failures, is_taken, position, state_of
from dipod_jax.tables import counted, duration, shown_return

if TYPE_CHECKING:
    from rich.table import Table

REDRAW_S = 60.0  # between two drawings of what is finished
MOST_ROWS = 20


class Board:
    """The states of a job's units, as their folders say, and what is shown of them. A context manager."""

    def __init__(self, job: Job, stream: TextIO | None = None) -> None:
        """Show on `stream`; standard output where None."""
        from rich.console import Console
        from rich.live import Live

        terminal = sys.stdout if stream is None else stream
        self._console = Console(file=terminal, markup=False, emoji=False, highlight=False)
        self._live = None
        if terminal.isatty() and self._console.is_interactive:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._job, self._states = job, dict[str, State]()
        self._failures: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._returns: dict[str, float | None] = {}
        self._begun: tuple[float, int] | None = None
        self._drawn = time.monotonic()
        self._undrawn = False

    @property
    def running(self) -> list[Unit]:
        """Units that somebody trains."""
        return self._of("running")

    @property
    def num_waiting(self) -> int:
        """Units that nobody trains yet."""
        return len(self._of("waiting"))

    @property
    def num_left(self) -> int:
        """Units that are neither done nor given up."""
        return self.num_waiting + len(self.running)

    def look(self) -> None:
        """Read the states again, tell what has changed, and draw what is finished once in a while."""
        changed = [unit for unit in self._job.units if self._look_at(unit)]
        now = time.monotonic()
        steps = sum(self._steps.values())
        if self._begun is None:
            self._begun = now, steps
        if self._live is not None:
            self._live.update(self._table())
        elif changed:
            self.line(self.summary())
        if self._undrawn and self.num_left and now - self._drawn > REDRAW_S:
            self._undrawn = False
            draw(self._job.out, self.line, quiet=True)
            self._drawn = time.monotonic()

    def summary(self) -> str:
        """`12 units: 5 done, 2 running, 5 waiting, ETA 1h02m`; no ETA before anything has moved."""
        counts = {state: len(self._of(state)) for state in ("done", "running", "waiting", "failed")}
        parts = [f"{count} {state}" for state, count in counts.items() if count or state == "done"]
        seconds = self._eta_s()
        if self.num_left and math.isfinite(seconds):
            parts.append(f"ETA {duration(seconds)}")
        return f"{counted(len(self._job.units), 'unit')}: {', '.join(parts)}"

    def line(self, text: str) -> None:
        """Print one line, above the table where there is one."""
        self._console.print(text, soft_wrap=True)

    def __enter__(self) -> Board:
        """Self, with the table shown."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the table and leave one line."""
        if self._live is not None:
            self._live.stop()
            self.line(self.summary())

    def _of(self, state: str) -> list[Unit]:
        return [unit for unit in self._job.units if self._states.get(unit.id) == state]

    def _look_at(self, unit: Unit) -> bool:
        """Whether the unit's state has changed since; says so."""
        before = self._states.get(unit.id)
        if before in ("done", "failed"):
            return False
        now = self._states[unit.id] = state_of(unit, self._job.session)
        if now == "failed" and is_taken(unit):  # another command tries what this one has given up
            now = self._states[unit.id] = "running"
        at = position(unit)
        self._returns[unit.id] = at.last_return
        steps = unit.config.planned_steps if now == "done" else at.env_steps
        self._steps[unit.id] = steps * len(unit.config.all_seeds)
        failed = failures(unit, self._job.session)
        if len(failed) > self._failures.get(unit.id, 0):
            again = "" if now == "failed" else "; it is tried once more"
            self.line(f"{unit.name}: failed: {failed[-1]['error']}{again}")
        self._failures[unit.id] = len(failed)
        if now == before:
            return False
        if now in ("done", "running") and before is not None:
            last = self._returns[unit.id] if now == "done" else None
            self.line(f"{unit.name}: {now}{'' if last is None else f', return {shown_return(last)}'}")
        self._undrawn |= now == "done" and before is not None
        return now != "waiting"

    def _eta_s(self) -> float:
        """Seconds to the end at the speed since the first look; nan before anything has moved."""
        if self._begun is None:
            return math.nan
        start, before = self._begun
        done = sum(self._steps.values())
        given_up = {unit.id for unit in self._of("failed")}
        left = sum(unit.total_steps - self._steps[unit.id] for unit in self._job.units if unit.id not in given_up)
        return left * (time.monotonic() - start) / (done - before) if done > before else math.nan

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(title=self.summary(), title_justify="left", box=None, pad_edge=False)
        for name in ("running", "env steps", "return"):
            table.add_column(name, justify="left" if name == "running" else "right")
        for unit in self.running[:MOST_ROWS]:
            share = 100.0 * self._steps[unit.id] / unit.total_steps
            table.add_row(unit.name, f"{share:.0f} %", shown_return(self._returns[unit.id]))
        if len(self.running) > MOST_ROWS:
            table.add_row(f"and {len(self.running) - MOST_ROWS} more", "", "")
        return table
