"""The local launcher: every unit once, whatever becomes of its processes."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_sweep import command, fake_units

from dipod_jax.launch import local, worker
from dipod_jax.launch.base import Job
from dipod_jax.launch.board import Board
from dipod_jax.launch.local import note_death, shrink
from dipod_jax.launch.pool import Ended, Pool, split_cores
from dipod_jax.runs import RunFolder
from dipod_jax.runs.errors import MachineError, StorageError
from dipod_jax.studies.sweep.plan import read_plan
from dipod_jax.studies.sweep.states import failures, is_done, owner_of, take

LONG = {"total_steps": 16 * 20}


def start(out, seconds=None, **options):
    return subprocess.Popen(**command(out, seconds, **options), stdout=-1, stderr=-1, process_group=0)


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def pids_in(out: Path) -> list[int]:
    """The workers that have a unit."""
    units = read_plan(out) if (out / "plan.json").exists() else []
    return [pid for unit in units if not is_done(unit) and (pid := owner_of(unit)) is not None]


def assert_each_done_once(out: Path, count: int) -> None:
    """Every unit has a result, every iteration of every seed one record, and no run was finished twice."""
    units = read_plan(out)
    assert len(units) == count and all(is_done(unit) for unit in units)
    for unit in units:
        records = RunFolder.open(unit.folder).read_metrics()
        iterations = Counter(record["iteration"] for record in records if record["kind"] == "train")
        assert iterations == dict.fromkeys(range(1, unit.config.num_iterations + 1), 1), unit.name
        assert (unit.logs / "output.log").read_text().count("everything is in") <= 1
        assert not (unit.logs / ".lock").exists()


def kill_at_random(out: Path, kills: int, **options) -> None:
    """Kill launcher and workers with SIGKILL, again and again, at instants from the start to deep in training."""
    draw = random.Random(0)
    for kill in range(kills):
        process = start(out, {"act": 0.05}, session=f"kill {kill}", **options)
        if kill % 4 != 3:  # every fourth time while it starts
            wait_until(lambda process=process: pids_in(out) or process.poll() is not None)
        time.sleep(draw.uniform(0.0, 1.5))
        for pid in [process.pid, *pids_in(out)]:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


@pytest.mark.slow
def test_workers_killed_twice_leave_every_unit_done_once_in_the_end(tmp_path):
    out = tmp_path / "s"
    fake_units(out, betas=(0.0, 0.1))
    words = command(out, {"act": 0.05})
    words["args"][2:] = ["worker", str(out)]
    for kill in range(2):
        with subprocess.Popen(**words, stdout=-1) as process:
            wait_until(lambda process=process: pids_in(out) == [process.pid])
            time.sleep(0.2 * kill)
            process.kill()
    last = subprocess.run(**words, capture_output=True)
    assert last.returncode == 0 and "which was killed" in last.stdout, last
    assert_each_done_once(out, 2)


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_does_every_unit_once_in_the_end(tmp_path):
    out, betas = tmp_path / "s", tuple(0.1 * n for n in range(6))
    kill_at_random(out, 20, workers=2, betas=betas, **LONG)
    process = start(out, session="last", workers=2, betas=betas, **LONG)
    output, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, ""), output
    assert_each_done_once(out, 6)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_unit_has_failed_once(tmp_path):
    out = tmp_path / "s"
    process = start(out, {"act": 0.1}, session="a", workers=1, betas=(0.0,), **LONG)
    (pid,) = wait_until(lambda: pids_in(out))
    wait_until(lambda: list(out.glob("units/*/metrics.jsonl")))
    os.kill(pid, signal.SIGKILL)
    output, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "") and "killed by SIGKILL; it is tried once more" in output
    (unit,) = read_plan(out)
    assert [failure["session"] for failure in failures(unit)] == ["a"]
    assert_each_done_once(out, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_every_run_saves_and_the_status_tells_the_signal(tmp_path, number, status):
    out = tmp_path / "s"
    process = start(out, {"act": 0.2}, checkpoint_interval=3600.0, workers=2, betas=(0.0, 0.1), total_steps=10**6)
    wait_until(lambda: len(list(out.glob("units/*/metrics.jsonl"))) == 2)
    time.sleep(1.0)
    os.kill(process.pid, number)
    output, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (status, "interrupted\n"), output
    for unit in read_plan(out):
        assert "stopped and saved" in (unit.logs / "output.log").read_text()
        assert list((unit.folder / "checkpoints").iterdir()) and not (unit.folder / ".lock").exists()


@pytest.mark.slow
def test_a_unit_that_fails_is_tried_twice_and_the_rest_goes_on(tmp_path):
    out = tmp_path / "s"
    bad, good = fake_units(out, betas=(0.1, 0.0))
    bad.folder.mkdir(parents=True)
    (bad.folder / "stranger").write_text("no run can begin here")
    process = start(out, session="a", workers=1, betas=(0.1, 0.0))
    output, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "") and "2 units: 1 done, 1 failed" in output
    assert is_done(good) and len(failures(bad, "a")) == 2 and "is not a run folder" in failures(bad)[0]["error"]
    assert "Traceback" in (bad.logs / "output.log").read_text()


@pytest.mark.slow
def test_a_worker_is_not_stopped_while_it_draws(tmp_path):
    process = start(tmp_path / "s", {"draw": 3.0}, workers=1, betas=(0.0,))
    output, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), output
    (unit,) = read_plan(tmp_path / "s")
    assert "everything is in" in (unit.logs / "output.log").read_text()


def dead_worker(out: Path, status: int, *lines: str) -> Ended:
    log = out / "worker.log"
    log.write_text("".join(f"{line}\n" for line in lines))
    return Ended(12345, status, log)


def test_the_death_of_a_worker_counts_against_its_last_unit_even_where_another_has_taken_that_over(tmp_path):
    first, second = fake_units(tmp_path / "s", betas=(0.0, 0.1))
    job = Job(tmp_path / "s", (first, second), "a")
    ended = dead_worker(tmp_path, -9, f"{first.name}: training", f"{first.name}: done", f"{second.name}: training")
    lock = take(second)  # by another worker, before the launcher has looked
    assert note_death(job, ended)
    assert lock is not None and failures(first) == []
    assert "process 12345, was killed by SIGKILL" in failures(second, "a")[0]["error"]


def test_a_worker_that_is_killed_with_nothing_in_hand_leaves_the_others_and_the_last_one_ends_the_sweep(tmp_path):
    units = fake_units(tmp_path / "s", betas=(0.0,))
    job, said = Job(tmp_path / "s", tuple(units), "a"), io.StringIO()
    ended = dead_worker(tmp_path, -9, "Killed while it imported")
    assert not note_death(job, ended) and failures(units[0]) == []
    pool = Pool(["true"], 2, tmp_path / "logs", "a", pinned=False)
    shrink(pool, Board(job, said), ended)
    assert pool.size == 1 and "killed by SIGKILL; going on with 1" in said.getvalue()
    with pytest.raises(MachineError, match="killed by SIGKILL; it said: Killed while it imported"):
        shrink(pool, Board(job, said), ended)


@pytest.mark.parametrize(("status", "error"), [(2, MachineError), (1, MachineError), (74, StorageError)])
def test_what_no_other_worker_would_escape_ends_the_sweep_in_its_words(tmp_path, status, error):
    units = fake_units(tmp_path / "s", betas=(0.0,))
    with pytest.raises(error, match="no such thing"):
        note_death(Job(tmp_path / "s", tuple(units), "a"), dead_worker(tmp_path, status, "error: no such thing"))


@pytest.mark.parametrize(("cores", "gigabytes", "workers"), [(64, 512, 5), (64, 6, 4), (2, 512, 2), (8, 1, 1)])
def test_there_are_as_many_workers_as_cores_units_and_memory_allow(tmp_path, monkeypatch, cores, gigabytes, workers):
    units = fake_units(tmp_path / "s", betas=(0.0, 0.1, 0.2, 0.3, 0.4))
    monkeypatch.setattr(local, "available_cores", lambda: cores)
    monkeypatch.setattr(local, "machine_bytes", lambda: gigabytes * 2**30)
    assert local.sensible_workers(Job(tmp_path / "s", tuple(units), "a")) == workers


def test_two_launchers_on_one_folder_write_logs_of_their_own(tmp_path):
    pools = [Pool([sys.executable, "-c", f"print('{name}')"], 1, tmp_path, name, pinned=False) for name in "ab"]
    for pool in pools:
        pool.start()
    ended = [wait_until(pool.reap)[0] for pool in pools]
    assert [each.last_line() for each in ended] == ["a", "b"]


def test_workers_stop_where_their_launcher_is_gone(tmp_path):
    script = "import os, sys; os.read(0, 1); open(sys.argv[1], 'w').close()"
    pool = Pool([sys.executable, "-c", script, str(tmp_path / "ended")], 1, tmp_path, "a", pinned=False)
    pool.start()
    (process,) = pool._running.values()
    assert process.stdin is not None
    process.stdin.close()  # as the kernel does
    wait_until(lambda: (tmp_path / "ended").exists())
    process.wait()


@pytest.mark.parametrize(
    ("cores", "count", "parts"),
    [([0, 1], 2, [[0], [1]]), ([2, 3, 5], 2, [[2, 5], [3]]), ([4], 3, [[4], [4], [4]]), ([0, 1], 1, [[0, 1]])],
)
def test_cores_are_shared_out_among_workers(cores, count, parts):
    assert split_cores(cores, count) == parts


def test_the_plan_of_a_sweep_names_its_units_for_people(tmp_path):
    units = fake_units(tmp_path / "s")
    lines = (tmp_path / "s" / "plan.csv").read_text().splitlines()
    assert lines[0] == "id,task,objective,beta,seeds,options,folder" and len(lines) == 1 + len(units)
    assert [entry["id"] for entry in json.loads((tmp_path / "s" / "plan.json").read_text())["units"]] == [
        unit.id for unit in units
    ]


def test_a_shard_waits_for_a_unit_of_a_lost_machine_and_says_what_it_could_not_do(tmp_path, monkeypatch, capsys):
    (unit,) = fake_units(tmp_path, betas=(0.0,))
    worked = []
    monkeypatch.setattr(worker, "RELEASE_S", 0.5)
    monkeypatch.setattr(worker, "work", lambda units, session, trainer: worked.append(session) or True)
    assert not worker.work_and_wait([unit], "s", None)
    assert len(worked) > 1 and capsys.readouterr().out == f"{unit.name}: not done; another process has it\n"
    worked.clear()
    monkeypatch.setattr(worker, "is_done", lambda unit: bool(worked))  # it is, once it could be taken
    assert worker.work_and_wait([unit], "s", None) and worked == ["s"]
