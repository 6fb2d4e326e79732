"""A run of any length takes bounded memory and leaves a bounded number of files.

For two hours: `DIPOD_LONG_RUN_S=7200 python -m pytest tests/runs/test_long_run.py -m slow`; a minute where not asked.
It saves 120 times, as two hours do by default: the storage library beneath orbax loses some 30 kB in each save.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("DIPOD_LONG_RUN_S", "60"))
OPTIONS = (
    *("--task", "PendulumSwingup", "--preset", "smoke", "--backend", "native", "--logger", "tensorboard"),
    *("--total-steps", "1000000000", "--drift.interval", "50", "--beta", "0.01"),
    *("--checkpoint-interval", str(SECONDS / 120)),
    *("--rollout.num-envs", "32", "--rollout.num-steps", "32", "--rollout.episode-length", "50"),
    *("--policy.hidden-sizes", "8", "--policy.num-steps", "2", "--policy.num-draws", "2", "--critic.hidden-sizes", "8"),
    *("--learning.minibatch-size", "256", "--learning.num-epochs", "1", "--evaluation.interval", "100000"),
    *("--evaluation.num-episodes", "2", "--evaluation.num-episodes-during", "2"),
)


def resident(process):
    """Bytes of memory that a process holds."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


@pytest.mark.slow
def test_memory_stays_within_five_percent_and_files_do_not_grow_in_number(tmp_path):
    folder, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MUJOCO_GL": "disable"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dipod_jax", "train", *OPTIONS, "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        while not (metrics.exists() and '"iteration": 100,' in metrics.read_text()):
            assert process.poll() is None
            time.sleep(0.5)
        held, files, began = [], [], time.monotonic()
        while time.monotonic() - began < SECONDS:
            held.append(resident(process))
            # unlike `rglob`, `walk` passes over a folder that vanishes while it is looked into
            files.append(sum(len(names) for where, _, names in os.walk(folder) if "writing" not in where))
            assert process.poll() is None
            time.sleep(max(0.5, SECONDS / 500))
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(600)  # how soon it stops is tested elsewhere
    assert status == 143
    quarter = len(held) // 4
    early, late = np.median(held[quarter : 2 * quarter]), np.median(held[-quarter:])
    assert late < 1.05 * early, f"{early / 2**20:.0f} MiB became {late / 2**20:.0f} MiB"
    checkpoints = [p for p in (folder / "checkpoints").iterdir() if p.name.startswith("step_")]
    assert len(checkpoints) == 2
    # between a save and the removal of the oldest there is one checkpoint more
    of_one = sum(len(names) for _, _, names in os.walk(checkpoints[0]))
    assert max(files[-quarter:]) <= max(files[: 2 * quarter]) + of_one
    lines = metrics.read_bytes().splitlines()
    assert max(map(len, lines)) < 4096  # what grows, grows by a line an iteration
