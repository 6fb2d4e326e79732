"""A run's folder survives kills, refuses what it cannot use, and reads back what was written."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dipod_jax.runs import RunFolder, RunFolderError, check_unused, check_writable
from dipod_jax.runs._disk import plain
from dipod_jax.runs.provenance import git_commit


@dataclass(frozen=True)
class Sizes:
    hidden: tuple[int, ...] = (64, 64)


def record(iteration, **more):
    head = {"kind": "train", "seed": 0, "iteration": iteration, "env_steps": 16 * iteration, "wall_clock_s": 0.5}
    return head | more


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"task": "BallInCup", "beta": 0.002})


def test_a_configuration_reads_back_as_json_holds_it(tmp_path):
    config = {"sizes": Sizes(), "out": Path("runs/x"), "rate": np.float32(0.5), "steps": np.int64(7), "bound": np.inf}
    RunFolder.create(tmp_path / "a" / "b", config)
    expected = {"sizes": {"hidden": [64, 64]}, "out": "runs/x", "rate": 0.5, "steps": 7, "bound": None}
    assert RunFolder.open(tmp_path / "a" / "b").config == expected


def test_config_json_says_where_the_numbers_come_from(folder):
    record = json.loads((folder.path / "config.json").read_text())
    assert record["versions"]["jax"].startswith("0.")
    assert set(record["versions"]) >= {"python", "jaxlib", "flax", "optax", "mujoco", "mujoco-mjx", "playground"}
    assert record["machine"]["device_kind"] and record["machine"]["cpu_count"] >= 1
    assert record["git"] is None or len(record["git"]["commit"]) == 40
    assert record["command"].startswith("python")
    assert folder.provenance == {key: value for key, value in record.items() if key != "config"}


def test_git_commit_is_null_for_a_file_that_the_checkout_does_not_track(tmp_path):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "tracked.py").write_text("1")
    (tmp_path / "other.py").write_text("1")
    assert git_commit(tmp_path / "tracked.py") is None
    git("init")
    git("add", "tracked.py")
    git("commit", "-m", "x")
    assert git_commit(tmp_path / "other.py") is None
    clean = git_commit(tmp_path / "tracked.py")
    assert clean is not None and clean["dirty"] is False and len(clean["commit"]) == 40
    (tmp_path / "tracked.py").write_text("2")
    dirty = git_commit(tmp_path / "tracked.py")
    assert dirty == {"commit": clean["commit"], "dirty": True}


def test_the_command_is_what_one_would_type(tmp_path):
    code = "from dipod_jax.runs.provenance import command_line; print(command_line())"
    words = [sys.executable, "-c", code, "--beta", "0.1", "a b"]
    assert subprocess.check_output(words, text=True) == "python -c --beta 0.1 'a b'\n"
    (tmp_path / "probe.py").write_text(code)
    words = [sys.executable, "-m", "probe", "a b"]
    assert subprocess.check_output(words, text=True, cwd=tmp_path) == "python -m probe 'a b'\n"


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(folder):
    before = (folder.path / "config.json").read_bytes()
    folder.append_metrics(record(1))
    folder.close()
    with pytest.raises(RunFolderError, match=r"--out: .* already holds a run; .*--resume.*--out"):
        RunFolder.create(folder.path, {"task": "FingerSpin"})
    assert (folder.path / "config.json").read_bytes() == before


def test_a_folder_that_holds_anything_else_is_refused_and_an_empty_one_is_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path, {})
    with pytest.raises(RunFolderError, match="is a file"):
        check_unused(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", {"a": 1}).config == {"a": 1}


def test_a_run_that_ended_before_it_trained_leaves_a_folder_that_the_next_one_takes(folder):
    folder.append_metrics(record(0, kind="evaluation", return_mean=1.0))
    (folder.path / "tensorboard").mkdir()
    (folder.path / ".config-abcd1234.json").touch()  # of a kill while the file was written
    folder.close()
    again = RunFolder.create(folder.path, {"task": "FingerSpin"})
    assert again.config == {"task": "FingerSpin"} and again.read_metrics() == []
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "config.json"]
    again.close()
    (folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="already holds a run"):
        check_unused(folder.path)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"config": 3}'])
def test_what_is_not_a_run_folder_is_named_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RunFolderError, match="is not a folder"):
        RunFolder.open(tmp_path / "absent")


def test_metrics_read_back_in_order_and_what_json_lacks_is_null(folder):
    folder.append_metrics(record(0, loss=np.float32(0.5), gap=float("nan")))
    folder.append_metrics(record(1, loss=np.array(0.25), gap=float("inf")))
    expected = [record(0, loss=0.5, gap=None), record(1, loss=0.25, gap=None)]
    assert RunFolder.open(folder.path).read_metrics() == expected


def test_a_return_that_is_not_finite_reads_back_as_nan(folder):
    folder.append_metrics(record(0, kind="evaluation", return_mean=float("nan"), return_ci95=float("inf")))
    folder.truncate_metrics(after_iteration=0)
    (read,) = folder.read_metrics()
    assert np.isnan(read["return_mean"]) and read["return_ci95"] is None


def test_metrics_of_a_new_run_are_empty(folder):
    assert folder.read_metrics() == []
    assert folder.read_result() is None


@pytest.mark.parametrize("torn", [b'{"iterat', b'{"iteration": 2}', b"\x00\x00", '{"name": "ü'.encode()[:-1]])
def test_a_torn_last_line_is_dropped_by_readers_and_by_the_next_writer(folder, torn):
    folder.append_metrics(record(1))
    folder.close()
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    again = RunFolder.open(folder.path)
    assert again.read_metrics() == [record(1)]
    again.append_metrics(record(9))
    assert again.read_metrics() == [record(1), record(9)]


def test_a_damaged_line_that_is_not_the_last_one_is_an_error_that_names_it(folder):
    lines = [json.dumps(record(0)), '{"iter', json.dumps(record(2)), ""]
    (folder.path / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl line 2 is damaged"):
        folder.read_metrics()


def test_truncation_drops_what_lies_after_the_checkpoint_and_appending_goes_on(folder):
    for iteration in range(5):
        folder.append_metrics(record(iteration))
        folder.append_metrics(record(iteration, kind="drift"))
    folder.truncate_metrics(after_iteration=2)
    folder.append_metrics(record(3))
    assert [r["iteration"] for r in folder.read_metrics()] == [0, 0, 1, 1, 2, 2, 3]


def test_metrics_are_set_aside_under_a_name_that_is_free(folder):
    assert folder.set_metrics_aside() is None
    for number in (1, 2):
        folder.append_metrics(record(number))
        assert folder.set_metrics_aside() == folder.path / f"metrics-{number}.jsonl"
    assert folder.read_metrics() == [] and "2" in (folder.path / "metrics-2.jsonl").read_text()


def test_a_result_that_cannot_be_written_leaves_the_old_one(folder):
    folder.write_result({"env_steps": 900})
    with pytest.raises(TypeError, match="object"):
        folder.write_result({"env_steps": object()})
    assert folder.read_result() == {"env_steps": 900}
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "result.json"]


def test_a_damaged_result_is_an_error_that_names_the_file(folder):
    (folder.path / "result.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"result\.json is damaged"):
        folder.read_result()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"env_steps": "9"}', '{"samples": "../9"}', "folder"])
def test_a_damaged_result_is_set_aside_once_said_and_the_run_goes_on(folder, damage):
    path, said = folder.path / "result.json", []
    path.mkdir() if damage == "folder" else path.write_text(damage)
    folder.say = said.append
    assert not folder.has_reached(1)
    folder.set_result_aside()
    folder.set_result_aside()
    (line,) = said
    assert "result.json" in line and line.endswith("it is set aside as result-damaged-1.json, and the run goes on")
    assert "resume" not in line and "\n" not in line
    assert not path.exists() and (folder.path / "result-damaged-1.json").exists()
    path.write_text("{")
    folder.set_result_aside()
    assert (folder.path / "result-damaged-2.json").read_text() == "{"


def test_a_result_without_its_steps_reaches_nothing(folder):
    folder.write_result({"wall_clock_s": 3.0})
    assert not folder.has_reached(1)


def test_arrays_and_sets_become_lists():
    assert plain({"a": np.arange(3), "b": (1, 2), 3: {4}, "c": True}) == {
        "a": [0, 1, 2],
        "b": [1, 2],
        "3": [4],
        "c": True,
    }


WRITER = """
import sys
from pathlib import Path
from dipod_jax.runs import RunFolder
folder = RunFolder.open(Path(sys.argv[1]))
start = len(folder.read_metrics())
for iteration in range(start, 10**9):
    head = {"kind": "train", "seed": 0, "iteration": iteration, "env_steps": iteration, "wall_clock_s": 1.0}
    folder.append_metrics({**head, "text": "x" * 3000})
    folder.write_result({"env_steps": iteration, "text": "y" * 3000})
"""


def test_kill_9_while_writing_leaves_a_readable_folder_that_the_next_run_continues(folder):
    metrics = folder.path / "metrics.jsonl"
    for round_number in range(4):
        size = metrics.stat().st_size if metrics.exists() else 0
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)])
        deadline = time.monotonic() + 20
        while (not metrics.exists() or metrics.stat().st_size <= size + 30_000) and time.monotonic() < deadline:
            time.sleep(0.003 + 0.0007 * round_number)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        iterations = [record["iteration"] for record in RunFolder.open(folder.path).read_metrics()]
        assert iterations == list(range(len(iterations))) and len(iterations) > 10 * round_number
        result = RunFolder.open(folder.path).read_result()
        assert result is not None and iterations[-1] - result["env_steps"] in (0, 1) and len(result["text"]) == 3000


def test_importing_the_package_imports_neither_jax_nor_orbax():
    slow = ("jax", "orbax", "matplotlib", "rich", "mujoco")
    code = f"import sys, dipod_jax.runs, dipod_jax.viz; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_a_writable_path_passes_and_nothing_stays_behind(tmp_path):
    check_writable(tmp_path / "new" / "deeper")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/run", "file", "x" * 300, "absent/" + "x" * 300 + "/run", "nul\0l"])
def test_a_path_that_cannot_be_written_is_one_line_that_names_the_option(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--out: value .*; allowed: a folder that can be written into") as caught:
        check_writable(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_run_folder_that_takes_no_results_is_named_with_the_way_out():
    with pytest.raises(ValueError, match=r"^RUN_DIR: value '/proc'; allowed: .* written into, such as a copy of it \("):
        check_writable(Path("/proc"), "RUN_DIR")


def test_a_read_only_place_is_refused_even_to_root():
    with pytest.raises(ValueError, match="--out: value '/proc/run'"):
        check_writable(Path("/proc/run"))
