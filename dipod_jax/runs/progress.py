"""What the terminal shows while a run works: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from types import TracebackType
from typing import TextIO

from dipod_jax.tables import duration, short_number


class Progress:
    """Progress over env steps: speed, time left, last return.

    On a terminal a bar that redraws itself, with `line`s scrolling above it; where the stream is no terminal (a log
    file, a pipe, CI) plain lines, one per `interval_s` at most. A context manager; `close` may be called twice.
    """

    def __init__(
        self, total_env_steps: int, *, name: str = "training", stream: TextIO | None = None, interval_s: float = 10.0
    ) -> None:
        """Start.

        Args:
            total_env_steps: env steps at which the run ends, > 0.
            name: what stands before the bar.
            stream: where to write; standard output where None.
            interval_s: least seconds between two plain lines of `update`; the last step is always shown.
        """
        self.total_env_steps = total_env_steps
        self.name = name
        self._stream = sys.stdout if stream is None else stream
        self._interval_s = interval_s
        self._last_plain_s = -math.inf
        self._bar = _Bar(total_env_steps, name, self._stream) if self._stream.isatty() else None

    def update(self, env_steps: int, env_steps_per_s: float, last_return: float | None = None) -> None:
        """Show where the run stands.

        Args:
            env_steps: env steps taken so far.
            env_steps_per_s: current speed; 0 or nan where it is not known yet.
            last_return: mean return of the latest episodes, None or nan where no episode has ended.
        """
        eta_s = (self.total_env_steps - env_steps) / env_steps_per_s if env_steps_per_s > 0 else math.nan
        status = f"{short_number(env_steps_per_s)} steps/s  ETA {duration(eta_s)}  {_return_text(last_return)}"
        if self._bar is not None:
            self._bar.update(env_steps, status)
            return
        now = time.monotonic()
        if now - self._last_plain_s >= self._interval_s or env_steps >= self.total_env_steps:
            self._last_plain_s = now
            share = min(100.0, 100.0 * env_steps / self.total_env_steps)
            of_total = f"{short_number(env_steps)}/{short_number(self.total_env_steps)} env steps"
            self.line(f"{self.name} {share:5.1f}%  {of_total}  {status}")

    def line(self, text: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.line(text)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands and free the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "Progress":
        """Self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        self.close()


class _Bar:
    """rich's bar; apart, so that plain output never imports rich."""

    def __init__(self, total: int, name: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._rich = RichProgress(*columns, console=Console(file=stream), refresh_per_second=4)
        self._task = self._rich.add_task(name, total=total, status="")
        self._rich.start()

    def update(self, completed: int, status: str) -> None:
        self._rich.update(self._task, completed=completed, status=status)

    def line(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


def _return_text(value: float | None) -> str:
    return "return -" if value is None or math.isnan(value) else f"return {value:.1f}"
