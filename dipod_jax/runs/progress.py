"""What the terminal shows while a run works: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from types import TracebackType
from typing import TextIO, cast

from dipod_jax.runs.terminal import Terminal
from dipod_jax.tables import duration, short_number


class Progress:
    """Progress over env steps: speed, time left, last return.

    On a terminal a bar that redraws itself, with each `line` scrolling above it; where the stream is no terminal (a log
    file, a pipe, CI) or one that cannot move its cursor, plain lines, one per `interval_s` at most. Characters that the
    stream's encoding lacks come out as escapes, and a stream that is gone is written to no more: neither stops a
    training. A context manager; `close` may be called twice.
    """

    def __init__(
        self,
        total_env_steps: int,
        *,
        name: str = "training",
        stream: TextIO | None = None,
        interval_s: float = 10.0,
        silent: bool = False,
    ) -> None:
        """Start.

        Args:
            total_env_steps: env steps at which the run ends, > 0.
            name: what stands before the bar.
            stream: where to write; standard output where None.
            silent: show nothing.
            interval_s: least seconds between two plain lines of `update`; the last step is always shown.
        """
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.total_env_steps = total_env_steps
        self.name = name
        self._interval_s = interval_s
        self._last_plain_s = -math.inf
        shown = sys.stdout if stream is None else stream
        terminal = cast(TextIO, Terminal(None if silent else shown))
        self._console = Console(file=terminal, markup=False, emoji=False, highlight=False)
        self._plain = not (terminal.isatty() and self._console.is_interactive)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        self._bar = Bar(*columns, console=self._console, refresh_per_second=4, disable=self._plain)
        self._task = self._bar.add_task(name, total=total_env_steps, status="")
        self._bar.start()

    def update(self, env_steps: int, env_steps_per_s: float, last_return: float | None = None) -> None:
        """Show where the run stands.

        Args:
            env_steps: env steps taken so far.
            env_steps_per_s: current speed; 0 or nan where it is not known yet.
            last_return: mean return of the latest episodes, None or nan where no episode has ended.
        """
        eta_s = (self.total_env_steps - env_steps) / env_steps_per_s if env_steps_per_s > 0 else math.nan
        status = f"{short_number(env_steps_per_s)} steps/s  ETA {duration(eta_s)}  {_return_text(last_return)}"
        self._bar.update(self._task, completed=env_steps, status=status)
        now = time.monotonic()
        due = now - self._last_plain_s >= self._interval_s or env_steps >= self.total_env_steps
        if self._plain and due:
            self._last_plain_s = now
            share = min(100.0, 100.0 * env_steps / self.total_env_steps)
            of_total = f"{short_number(env_steps)}/{short_number(self.total_env_steps)} env steps"
            self.line(f"{self.name} {share:5.1f}%  {of_total}  {status}")

    def line(self, text: str) -> None:
        """Print one line, above the bar where there is one."""
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it stands and free the terminal."""
        self._bar.stop()

    def __enter__(self) -> "Progress":
        """Self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        self.close()


def _return_text(value: float | None) -> str:
    return "return -" if value is None or math.isnan(value) else f"return {value:.1f}"
