"""A sweep of the real launcher and workers over programs that only count, so that its kills take seconds.

As a program: `python fake_sweep.py sweep OUT [{"beta": [...], option of fake_run: value}]`.
"""

import ast
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "runs")]

from fake_run import FakePrograms, fake_config  # noqa: E402

from dipod_jax.launch import base, worker  # noqa: E402
from dipod_jax.launch.base import Job, find_launchers  # noqa: E402
from dipod_jax.studies.sweep import reporting  # noqa: E402
from dipod_jax.studies.sweep.plan import Unit, extend_plan, make_unit  # noqa: E402
from dipod_jax.studies.sweep.trainer import Trainer  # noqa: E402


def fake_units(out: Path, betas=(0.0, 0.1, 0.2), **options: Any) -> list[Unit]:
    """One unit a beta, planned."""
    base_config = fake_config(out, **options)
    units = [make_unit(out, dataclasses.replace(base_config, beta=beta)) for beta in betas]
    extend_plan(out, units)
    return units


def patch() -> None:
    """Fake programs, whose seconds are in the environment, and no pictures."""
    from dipod_jax.training import loop

    seconds = ast.literal_eval(os.environ.get("FAKE_SECONDS", "{}"))
    loop.write_artifacts = lambda *_: None
    Trainer._programs_of = lambda self, config: FakePrograms(config.all_seeds, **seconds)


def sweep(out: Path, options: dict[str, Any]) -> None:
    """Plan and train with the local launcher, until nothing is left."""
    base.WORKER = (sys.executable, __file__, "worker")
    reporting.draw = lambda *_, **__: None
    workers, session = options.pop("workers", 2), options.pop("session", str(os.getpid()))
    units = fake_units(out, **options)
    find_launchers()["local"]().submit(Job(out, tuple(units), session, workers=workers))


def main() -> None:
    from dipod_jax.cli import run_cli

    what, out, *rest = sys.argv[1:]
    patch()
    if what == "worker":
        worker.main([out, *rest])
    else:
        run_cli(lambda words: ast.literal_eval(words[0]), lambda options: sweep(Path(out), options), rest)


def command(out: Path, seconds: dict[str, float] | None = None, **options: Any) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a sweep in a process group of its own."""
    words = [sys.executable, __file__, "sweep", str(out), repr(options)]
    return {"args": words, "env": {**os.environ, "FAKE_SECONDS": repr(seconds or {})}, "text": True}


if __name__ == "__main__":
    main()
