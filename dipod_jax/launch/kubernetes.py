"""A Kubernetes job: `kubectl apply` takes its file, each of its indexed pods is a worker on one shard."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

from dipod_jax.launch.base import Job, Launcher, num_shards, register_launcher, worker_words
from dipod_jax.runs._disk import write_text
from dipod_jax.studies.sweep.plan import read_plan

MANIFEST = "job.yaml"
# A pod that a node takes with it does not count; an index whose worker fails is tried once more. Texts are written as
# JSON, which YAML reads too.
TEMPLATE = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {count}
  backoffLimitPerIndex: 1
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: "True"
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: worker
          image: IMAGE  # to be filled in: one that holds dipod-jax
          command: {command}
          env:
            - name: JOB_COMPLETIONS
              value: "{count}"
          resources:  # the limit tells a worker how many of the node's cores are its own
            limits: {limits}
          volumeMounts:
            - name: sweeps
              mountPath: {mount}
      volumes:
        - name: sweeps
          persistentVolumeClaim:
            claimName: CLAIM  # to be filled in: the one that holds this folder, for many to write
"""


@register_launcher("kubernetes")
class Kubernetes(Launcher):
    """An indexed job; the image and the volume are left to the user, who knows them."""

    waits = False
    options = ("workers",)

    def submit(self, job: Job) -> None:
        """Write the file and say what to do with it."""
        path = job.out / MANIFEST
        write_text(path, manifest(job))
        how = shlex.join(["kubectl", "apply", "-f", str(path)])
        print(f"fill in IMAGE and CLAIM in {path}, then submit it with: {how}")


def manifest(job: Job) -> str:
    """The file's text."""
    out = job.out.absolute()
    _, *words = worker_words(replace(job, out=out), read_plan(out))
    name = re.sub(r"[^a-z0-9]+", "-", out.name.lower()).strip("-")[:50].strip("-") or "sweep"
    return TEMPLATE.format(
        name=f"sweep-{name}",
        count=num_shards(job),
        command=json.dumps(["python", *words, "--shard"]),
        limits='{"nvidia.com/gpu": 1}' if job.on_accelerator else '{"cpu": 1}',
        mount=json.dumps(str(out.parent)),
    )
