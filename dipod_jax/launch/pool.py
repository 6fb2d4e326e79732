"""Worker processes on this machine, each on cores of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dipod_jax.runs import reason_of
from dipod_jax.runs.errors import StorageError

POLL_S = 0.05


class Ended(NamedTuple):
    """A worker that has ended."""

    pid: int
    status: int
    """as of `Popen.returncode`: the negative number of the signal that killed it"""
    log: Path

    def last_line(self) -> str:
        """What it said last."""
        return next((line for line in reversed(self.lines()) if line.strip()), "it said nothing")

    def lines(self) -> list[str]:
        """All that it said."""
        return self.log.read_text(errors="replace").split("\n")


class Pool:
    """Up to `size` processes of one command.

    Ctrl-C in a terminal reaches the launcher alone, which stops them. Where it is gone they stop by themselves, as the
    pipe that is their standard input ends.
    """

    def __init__(self, words: Sequence[str], size: int, logs: Path, name: str, *, pinned: bool) -> None:
        """Prepare for processes that run `words`, each writing to a file in `logs` that has the pool's name."""
        self.size, self._words, self._logs, self._name = size, [*words, "--with-parent"], logs, name
        self._cores = split_cores(sorted(os.sched_getaffinity(0)), size) if pinned else [[]] * size
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def pids(self) -> set[int]:
        """Of those that run."""
        return {process.pid for process in self._running.values()}

    def start(self) -> None:
        """Start one more; there is a place for it."""
        place = next(n for n in range(len(self._cores)) if n not in self._running)
        cores = ["--cores", *map(str, self._cores[place])] if self._cores[place] else []
        try:
            with self._log(place).open("wb") as log:
                self._running[place] = subprocess.Popen(
                    [*self._words, *cores], stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0
                )
        except OSError as error:
            raise StorageError(f"no worker can be started ({reason_of(error)})") from error

    def reap(self) -> list[Ended]:
        """Those that have ended since."""
        ended = [(place, process) for place, process in self._running.items() if process.poll() is not None]
        for place, process in ended:
            del self._running[place]
            assert process.stdin is not None
            process.stdin.close()
        return [Ended(process.pid, process.returncode, self._log(place)) for place, process in ended]

    def stop(self) -> None:
        """Ask all to stop, and wait until they have saved."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        while self._running:
            self.reap()
            time.sleep(POLL_S)

    def _log(self, place: int) -> Path:
        return self._logs / f"{self._name}-worker{place}.log"


def split_cores(cores: Sequence[int], count: int) -> list[list[int]]:
    """`count` parts of the cores, as equal as can be; with more parts than cores, one core each, shared."""
    return [list(cores[n::count]) or [cores[n % len(cores)]] for n in range(count)]
