"""A Slurm array: a script that `sbatch` takes, each of its jobs a worker on one shard."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from dipod_jax.checks import require
from dipod_jax.launch.base import Job, Launcher, num_shards, register_launcher, worker_words
from dipod_jax.runs._disk import write_text
from dipod_jax.studies.sweep.plan import LOGS, read_plan

SCRIPT = "sweep.sbatch"
# A job that is preempted is put back into the queue and goes on where it was; two minutes before its time is over it is
# told, and saves; whoever submits the script again goes on. `exec` makes the worker the process that is told.
TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
{gpu}#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output={output}
cd {cwd} || exit
exec {worker} --shard
"""


@register_launcher("slurm")
class Slurm(Launcher):
    """An array script; sbatch is left to the user, who knows the account, the partition and the time."""

    waits = False
    options = ("workers",)

    def validate(self, job: Job) -> None:
        """Refuse a folder that a script cannot name."""
        super().validate(job)
        require("\n" not in str(job.out.absolute()), "out", repr(str(job.out)), "a path of one line")

    def submit(self, job: Job) -> None:
        """Write the script and say what to do with it."""
        (job.out / LOGS).mkdir(parents=True, exist_ok=True)
        write_text(job.out / SCRIPT, script(job))
        print(f"submit it with: {shlex.join(['sbatch', '--time=24:00:00', str(job.out / SCRIPT)])}")


def script(job: Job) -> str:
    """The script's text."""
    return TEMPLATE.format(
        name=re.sub(r"[^\w.-]", "-", job.out.absolute().name),
        last=num_shards(job) - 1,
        gpu="#SBATCH --gpus-per-task=1\n" if job.on_accelerator else "",
        output=shlex.join([f"{job.out.absolute() / LOGS}/slurm-%A_%a.log"]),
        cwd=shlex.join([str(Path.cwd())]),
        worker=shlex.join(worker_words(job, read_plan(job.out))),
    )
