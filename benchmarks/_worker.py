"""Training iterations in a process of its own, on a chosen number of cores, run and timed on request.

Several such processes stay alive beside each other, so that what needs different cores or device counts takes turns
like any other variant; one that waits for its turn sleeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any


class Worker:
    """A child process that trains when called; use as a context manager."""

    def __init__(self, *, cores: int, **trainer: Any):
        """Start it on the first `cores` of this process's cores; `trainer` is what `end_to_end.make_loop` takes."""
        command = [sys.executable, "-m", "benchmarks._worker", str(cores), json.dumps(trainer)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.work = float(self._answer())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __call__(self) -> None:
        """One iteration; returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("done "):
                return line.split()[1]
        raise RuntimeError(f"a worker ended with status {self._process.wait()}")


def main() -> None:
    """Pin, set up, say how many env steps an iteration has, then iterate once for every line on standard input."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])  # before JAX counts its devices
    from benchmarks._setup import set_up
    from benchmarks.end_to_end import make_loop

    set_up()
    iterate, work = make_loop(**json.loads(sys.argv[2]))
    iterate()
    print("done", work, flush=True)
    for _ in sys.stdin:
        before = time.perf_counter()
        iterate()
        print("done", time.perf_counter() - before, flush=True)


if __name__ == "__main__":
    main()
