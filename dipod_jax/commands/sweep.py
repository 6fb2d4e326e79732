"""Tasks x objectives x options x betas, from one command: `dipod sweep --tasks BallInCup --betas 0 0.02 --seeds 4`."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dipod_jax.checks import check_choice, require
from dipod_jax.commands._arms import run_command
from dipod_jax.commands._units import check_rest, own_options, plan_units
from dipod_jax.launch.base import Job, Launcher, find_launchers
from dipod_jax.runs import check_writable
from dipod_jax.runs.provenance import command_line
from dipod_jax.studies.sweep.plan import PLAN, Unit, check_comparable, check_place, extend_plan, read_plan
from dipod_jax.studies.sweep.reporting import draw
from dipod_jax.studies.sweep.shards import parse_shard
from dipod_jax.studies.sweep.states import describe_failed, is_done, state_of
from dipod_jax.tables import counted, table

USAGE = """usage: dipod sweep [--tasks TASK ...] [--objectives NAME ...] [--betas BETA ...] [--grid OPTION VALUE ...]
                   [--out DIR] [--launcher LAUNCHER] [--workers N] [--shard [i/n]] [--ray-address ADDRESS]
                   [--dry-run] [options of dipod train, or dipod language]

Train one run for every combination of task, objective, beta (a number, or auto) and grid value, each with all its
seeds, into DIR/units, then write DIR/report.html. DIR/plan.csv lists the runs. To continue a sweep that was stopped,
give the same command again: finished runs are kept, the others are continued. To extend a sweep, give more betas,
tasks or objectives with the same DIR (default: runs/sweep/ and the names of the tasks).

  --tasks, --objectives   default: BallInCup and fpo; --task and --objective mean the same. sudoku and countdown are
                          runs of dipod language, whose return is the mean reward of an answer
  --betas                 default: that of a single run
  --grid OPTION VALUE ... an option of a run and its values; may be given several times. A value with commas is
                          passed as several words: --grid policy.hidden-sizes 64,64 32,32,32
  --launcher              local (default): processes on this machine; ray: an existing cluster
                          (pip install 'dipod-jax[ray]'); slurm, kubernetes: writes a script for you to submit
  --workers               number of processes on this machine, or of jobs in a script; default: one process per core
                          (a single one on an accelerator), one job per run
  --shard i/n             train only runs i, i + n, i + 2n, ... of the plan, 0 <= i < n; without a value, i and n are
                          those of the Slurm array or the indexed Kubernetes job in which the command runs
  --ray-address           address of the Ray cluster; default: the one that Ray finds
  --dry-run               show the plan and write nothing

`dipod train --help` and `dipod language --help` list the other options. Exit status 1: some runs failed; the same
command tries them again.
"""


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    job: Job
    launcher: Launcher
    dry_run: bool
    planned: tuple[Unit, ...]
    """all units of the command; the job has one shard of them where it was asked for one"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and sweep."""
    run_command(USAGE, parse, sweep, argv)


def parse(arguments: list[str]) -> Request:
    """The units of a command line, all of them validated; nothing is written."""
    own, rest = own_options(arguments)
    check_rest(rest)
    check_launch(own, own.out)
    return make_request(own, own.out, plan_units(own, rest))


def check_launch(own: argparse.Namespace, out: Path) -> None:
    """Refuse a launcher that there is not, and a folder that cannot be a sweep's."""
    check_choice("launcher", own.launcher, find_launchers())
    check_writable(out)
    check_place(out)


def make_request(own: argparse.Namespace, out: Path, units: list[Unit]) -> Request:
    """What `launch_options` ask of the units."""
    check_comparable([*(read_plan(out) if (out / PLAN).exists() else []), *units])
    check_writable(max((unit.folder for unit in units), key=lambda folder: len(folder.name)))
    launcher = find_launchers()[own.launcher]()
    require(own.shard is None or launcher.waits, "shard", own.shard, f"left out with --launcher {own.launcher}")
    chosen = units if own.shard is None else parse_shard(own.shard).of(units)
    job = Job(out, tuple(chosen), secrets.token_hex(4), own.workers, own.ray_address)
    launcher.validate(job)
    return Request(job, launcher, own.dry_run, tuple(units))


def sweep(request: Request) -> None:
    """Plan, run, show; raises SystemExit with status 1 where units failed."""
    job, out = request.job, request.job.out
    before = {unit.id for unit in read_plan(out)} if (out / PLAN).exists() else set[str]()
    print(_counts(request, before))
    if request.dry_run:
        if job.units:
            print(table([{**_shown(unit), "state": state_of(unit, job.session)} for unit in job.units]))
        return
    extend_plan(out, request.planned, command_line())
    if not job.units:
        return
    request.launcher.submit(job)
    if request.launcher.waits:
        _finish(job)


def _shown(unit: Unit) -> dict[str, str]:
    return {name: cell for name, cell in unit.row().items() if name not in ("options", "folder")}


def _counts(request: Request, before: set[str]) -> str:
    """How many units there are, are new and are finished, and those of other commands in the same plan."""
    units, job = request.planned, request.job
    new = sum(unit.id not in before for unit in units)
    finished = sum(is_done(unit) for unit in job.units)
    shard = "" if len(job.units) == len(units) else f", {len(job.units)} of them in this shard"
    others = len(before - {unit.id for unit in units})
    more = f"; {others} more of other commands stay as they are" if others else ""
    return f"{job.out}: {counted(len(units), 'unit')}, {new} new{shard}, {finished} finished before{more}"


def _finish(job: Job) -> None:
    failed = [unit for unit in job.units if not is_done(unit)]
    draw(job.out, print)
    describe_failed(failed, job.session, print)
    if failed:
        print(
            f"{len(failed)} of {counted(len(job.units), 'unit')} failed; the same command tries them again",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
