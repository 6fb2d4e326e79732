"""What the terminal shows while a run works: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from types import TracebackType
from typing import TextIO


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
        status = f"{format_count(env_steps_per_s)} steps/s  ETA {format_duration(eta_s)}  {_return_text(last_return)}"
        if self._bar is not None:
            self._bar.update(env_steps, status)
            return
        now = time.monotonic()
        if now - self._last_plain_s >= self._interval_s or env_steps >= self.total_env_steps:
            self._last_plain_s = now
            share = min(100.0, 100.0 * env_steps / self.total_env_steps)
            of_total = f"{format_count(env_steps)}/{format_count(self.total_env_steps)} env steps"
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


def format_count(count: float) -> str:
    """`count` with three digits and k, M or G: 950, 12.3k, 1.50M. A dash where it is not finite."""
    if not math.isfinite(count):
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * size:
            scaled = count / size
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(max(1.0, abs(scaled) * 1.0005))))}f}{letter}"
    return f"{count:.0f}"


def format_duration(seconds: float) -> str:
    """`seconds` as 42s, 3m07s or 1h02m. A dash where it is not finite."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _return_text(value: float | None) -> str:
    return "return -" if value is None or math.isnan(value) else f"return {value:.1f}"
