"""One run in several processes: the same numbers as in one, and all of them end together. Gloo over loopback."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax.runs import RunFolder
from dipod_jax.runs.watch import EXIT_STATUS

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 4
OPTIONS = (
    *("--task", "PendulumSwingup", "--preset", "smoke", "--backend", "native", "--logger", "none", "--beta", "0.01"),
    *("--total-steps", str(512 * ITERATIONS), "--checkpoint-interval", "0", "--drift.interval", "0"),
    *("--rollout.num-envs", "64", "--rollout.num-steps", "8", "--rollout.episode-length", "12"),
    *("--policy.hidden-sizes", "8", "--policy.num-steps", "2", "--policy.num-draws", "2", "--critic.hidden-sizes", "8"),
    *("--learning.minibatch-size", "256", "--learning.num-epochs", "1", "--evaluation.interval", "1024"),
    *("--evaluation.num-episodes", "4", "--evaluation.num-episodes-during", "4"),
)
LONG = ("--total-steps", str(512 * 10**5))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


def start(workplace, arguments, devices=1):
    """The training command with so many CPU devices."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MUJOCO_GL": "disable",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(workplace / "cache"),
    }
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(
        [sys.executable, "-m", "dipod_jax", "train", *arguments], cwd=workplace, env=environment, **pipes
    )


@contextlib.contextmanager
def joined(workplace, count, arguments):
    """So many processes that are one run."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    where = ("--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count), "--process-id")
    processes = [start(workplace, [*arguments, *where, str(index)]) for index in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ends(process, seconds=600):
    """Exit status and standard error, without the notes of libraries."""
    _, err = process.communicate(timeout=seconds)
    return process.returncode, [line for line in err.splitlines() if line.startswith(("error", "interrupted", "Trace"))]


def train(workplace, name, count=1, devices=1, arguments=()):
    """A run to its end: its folder."""
    options = [*OPTIONS, *arguments, "--out", name]
    if count == 1:
        assert ends(start(workplace, options, devices)) == (0, [])
    else:
        with joined(workplace, count, options) as processes:
            assert [ends(process) for process in processes] == [(0, [])] * count
    return workplace / name


def records(path):
    """Metrics without the clocks, by kind, seed and iteration."""
    lines = RunFolder.open(path).read_metrics()
    heads = ("kind", "seed", "iteration")
    return {tuple(r[h] for h in heads): {k: v for k, v in r.items() if not k.endswith("_s")} for r in lines}


def assert_same_run(path, other, tolerance):
    """All records, to a relative and absolute tolerance; 0 asks for the same bits."""
    ours, theirs = records(path), records(other)
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        assert record.keys() == theirs[key].keys()
        for name, value in record.items():
            if isinstance(value, str) or value is None:
                assert value == theirs[key][name]
            else:
                message = f"{key} {name}"
                assert_allclose(value, theirs[key][name], rtol=tolerance, atol=tolerance, err_msg=message)


@pytest.fixture(scope="module")
def one_process(workplace):
    """A run of one process with four devices."""
    return train(workplace, "one", devices=4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_give_the_numbers_of_one(workplace, one_process, count):
    path = train(workplace, f"of{count}", count=count)
    assert_same_run(path, one_process, 1e-4)  # sums in another order, over 4 iterations
    result = RunFolder.open(path).read_result()
    assert result["num_devices"] == count and not (path / ".lock").exists()
    assert {"report.html", "returns.png"} <= {p.name for p in path.iterdir()}


@pytest.mark.slow
def test_seeds_on_two_processes_have_the_bits_of_two_devices(workplace):
    seeds = ("--seed-list", "3", "5")
    two = train(workplace, "seeds2", count=2, arguments=seeds)
    assert_same_run(two, train(workplace, "seeds1", devices=2, arguments=seeds), 0.0)


def wait_for(path, iteration, processes):
    """Until a run has come so far."""
    metrics, deadline = path / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and f'"iteration": {iteration}' in metrics.read_text()):
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_process_is_killed_all_end_with_one_line_and_one_process_goes_on(workplace, killed):
    path = workplace / f"killed{killed}"
    with joined(workplace, 2, [*OPTIONS, *LONG, "--out", path.name]) as processes:
        wait_for(path, 3, processes)
        processes[killed].kill()
        status, lines = ends(processes[1 - killed], seconds=30)
    go_on = f"continue with dipod train --resume --out {path.name}"
    line = f"error: process {killed} of this run has died or does not answer; {go_on}"
    assert (status, lines) == (EXIT_STATUS, [line])
    steps = 512 * (1 + max(r["iteration"] for r in RunFolder.open(path).read_metrics()))
    assert ends(start(workplace, ["--resume", "--out", path.name, "--total-steps", str(steps)])) == (0, [])
    assert RunFolder.open(path).read_result()["env_steps"] == steps


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all_and_two_processes_go_on(workplace, one_process):
    path = workplace / "stopped"
    with joined(workplace, 2, [*OPTIONS, *LONG, "--out", path.name]) as processes:
        wait_for(path, 1, processes)
        processes[1].send_signal(signal.SIGTERM)
        assert [ends(process, seconds=30) for process in processes] == [(143, ["interrupted"])] * 2
    reached = max(r["iteration"] for r in RunFolder.open(path).read_metrics())
    saved = sorted(p.name for p in (path / "checkpoints").glob("step_*"))
    assert saved[-1] == f"step_{reached:012d}"
    steps = ("--total-steps", str(512 * (reached + 1)))
    with joined(workplace, 2, ["--resume", "--out", path.name, *steps]) as processes:
        assert [ends(process) for process in processes] == [(0, [])] * 2
    assert RunFolder.open(path).read_result()["missing_records"] is None
    first, whole = records(path), records(one_process)
    assert_allclose(first["train", 0, 1]["policy_loss"], whole["train", 0, 1]["policy_loss"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_both", "of_second", "words"),
    [
        (("--rollout.num-envs", "31", "--learning.minibatch-size", "248"), (), "31 environments in minibatches"),
        ((), ("--learning.learning-rate", "1"), "process 1 was started with other options than process 0"),
    ],
)
def test_what_processes_cannot_do_together_is_refused_in_one_line(workplace, of_both, of_second, words):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = ("--distributed", "--coordinator", f"127.0.0.1:{server.getsockname()[1]}", "--num-processes", "2")
    common = [*OPTIONS, *of_both, *where, "--out", f"refused{len(of_both)}", "--process-id"]
    found = [ends(p) for p in (start(workplace, [*common, "0"]), start(workplace, [*common, "1", *of_second]))]
    assert [status for status, _ in found] == [2, 2] and all(len(lines) == 1 for _, lines in found)
    assert any(words in line for _, (line,) in found)


def test_alone_a_process_is_the_first_and_agrees_with_itself():
    from dipod_jax.training import hosts

    assert hosts.is_first() and hosts.largest(3) == 3 and hosts.text_from_first("a") == "a"
    tree = {"x": np.arange(3)}
    assert hosts.to_host(tree)["x"].tolist() == hosts.from_first(tree)["x"].tolist() == [0, 1, 2]
    assert json.loads(json.dumps(hosts.text_from_first(None))) is None
