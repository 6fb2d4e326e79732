"""A disk that refuses: training goes on, says so once, retries, and ends with 74 where nothing is left to try."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_run import FakePrograms, FakeSession, fake_config, run_session

from dipod_jax.runs import RunFolder, Saver, StorageError, latest_checkpoint, saver
from dipod_jax.runs.metrics import MetricsWriter
from dipod_jax.training import artifacts, loop


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MiB, and a function that fills it."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")

    @contextmanager
    def full():
        with (path / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file.fileno(), bytes(4096))
        yield
        (path / "filler").unlink()

    try:
        yield path, full
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_records_that_a_full_disk_refuses_wait_and_none_is_lost_or_torn(disk):
    path, full = disk
    said = []
    writer = MetricsWriter(path / "metrics.jsonl", said.append)
    writer.append({"iteration": 0})
    with full():
        for iteration in range(1, 100):
            writer.append({"iteration": iteration, "text": "x" * 100})
        assert writer.problem is not None and not writer.flush()
    writer.append({"iteration": 100})
    lines = (path / "metrics.jsonl").read_bytes().splitlines()
    assert len(lines) == 101 and lines[-1] == b'{"iteration": 100}'
    assert len(said) == 2 and "no space left on device" in said[0] and "again; none was lost" in said[1]


def test_records_do_not_wait_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("dipod_jax.runs.metrics.MAX_WAITING_BYTES", 1000)
    writer = MetricsWriter(tmp_path / "absent" / "metrics.jsonl", lambda line: None)
    with pytest.raises(StorageError, match="has taken no record for too long: no such file"):
        for _ in range(100):
            writer.append({"text": "x" * 100})


def test_metrics_that_were_removed_begin_again_and_that_is_said(tmp_path):
    said = []
    writer = MetricsWriter(tmp_path / "metrics.jsonl", said.append)
    writer.append({"iteration": 1})
    (tmp_path / "metrics.jsonl").unlink()
    writer.append({"iteration": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"iteration": 2}\n'
    assert len(said) == 1 and "removed or replaced" in said[0]


def test_a_save_on_a_full_disk_is_skipped_leaves_older_ones_whole_and_the_next_one_works(disk, capfd):
    path, full = disk
    said = []
    keeper = Saver(path / "checkpoints", keep=2, say=said.append)
    state = {"x": np.random.default_rng(0).standard_normal(30_000)}
    assert keeper.save(1, state)
    with full():
        assert not keeper.save(2, state) and not keeper.save(3, state)
        assert [p.name for p in (path / "checkpoints").iterdir()] == ["step_000000000001"]
        with pytest.raises(StorageError, match=r"no checkpoint of iteration 4 .*no space left.* --resume"):
            keeper.save(4, state, required=True)
    assert keeper.save(5, state)
    newest = latest_checkpoint(path / "checkpoints")
    assert newest is not None and newest.name == "step_000000000005"
    assert len(said) == 2 and "no space left on device" in said[0] and "can be written again" in said[1]
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_refuses_for_ten_minutes_ends_the_run(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    keeper = Saver(tmp_path / "checkpoints", keep=2, say=lambda line: None)
    assert not keeper.save(1, {"x": np.zeros(3)})
    monkeypatch.setattr(saver, "PATIENCE_S", 0.0)
    with pytest.raises(StorageError, match="file exists"):
        keeper.save(2, {"x": np.zeros(3)})


def test_the_first_checkpoint_is_due_an_interval_after_the_run_has_begun(tmp_path, monkeypatch):
    seconds = iter([100.0, 159.9, 160.0, 170.0, 229.9, 230.0])
    monkeypatch.setattr(saver, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    keeper = Saver(tmp_path / "checkpoints", keep=2, say=pytest.fail)
    assert [keeper.is_due(60.0), keeper.is_due(60.0)] == [False, True]
    assert keeper.save(1, {"x": np.zeros(3)})  # at 170
    assert [keeper.is_due(60.0), keeper.is_due(60.0)] == [False, True]


def outcome(out, **options):
    """Exit status and the lines of stdout and stderr of a fake run."""
    done = run_session(out, **options)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_a_run_whose_files_may_not_grow_ends_with_74_in_one_line(tmp_path):
    status, out, err = outcome(tmp_path / "run", file_limit=6000, logger="tensorboard")
    assert status == 74 and len(err) == 1 and err[0].startswith("error: ") and "file too large" in err[0]
    assert sum("warning" in line for line in out) <= 3  # logger, metrics, checkpoints: once each


def test_a_run_goes_on_over_a_disk_that_is_full_for_a_while(disk):
    path, full = disk
    out = path / "run"
    process = FakeSession(out, act=0.05, total_steps=16 * 25)
    while not list(out.glob("checkpoints/step_*[5-9]")):
        assert process.poll() is None
        time.sleep(0.01)
    with full():
        time.sleep(0.5)
        assert process.poll() is None
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert [r["iteration"] for r in RunFolder.open(out).read_metrics() if r["kind"] == "train"] == list(range(1, 26))
    refusals = [line.split(" of ")[0].split(" cannot")[0] for line in printed.splitlines() if "no space left" in line]
    # Metrics, checkpoints, the best policy: once each, and once more only after a success.
    successes = sum("written again" in line or "records again" in line for line in printed.splitlines())
    assert refusals and len(refusals) - len(set(refusals)) < max(successes, 1), printed


def test_a_finished_run_stays_finished_where_no_picture_can_be_drawn(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("ffmpeg could not write it:\nno space left")

    for name in ("viz.plot_returns", "report.write_report"):
        monkeypatch.setattr(f"dipod_jax.{name}", fail)
    monkeypatch.setattr(artifacts, "write_policy_videos", fail)
    programs = FakePrograms()
    programs.evaluation_env = programs.policy = None
    result = loop.train(fake_config(tmp_path / "run"), programs=programs)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line.split()[2] for line in lines] == ["returns.png", "film", "report.html"]
    assert RunFolder.open(Path(tmp_path / "run")).read_result() is not None and result["env_steps"] == 160
