"""A run's folder that nobody can write into: one line that names a way out, before anything is compiled."""

import shutil
import subprocess

import pytest
from refusals import begun_run, errors_of

from dipod_jax.commands import evaluate, language, report, train
from dipod_jax.language.config import make_config, to_json
from dipod_jax.runs import RunFolder, StorageError


def _begin(path, kind):
    if kind == "train":
        begun_run(path)
    else:
        RunFolder.create(path, to_json(make_config())).close()


@pytest.fixture(params=["train", "language"])
def begun(request, tmp_path):
    """The command and the folder of a run that has begun, on a disk of its own; and `refuse`, which makes it
    read-only, the folder or one of those in it."""
    path, mounted = tmp_path / "run", []

    def refuse(where="."):
        place = path / where
        copy = shutil.copytree if place.is_dir() else shutil.copy
        aside = copy(place, tmp_path / "aside")
        if subprocess.run(["mount", "--bind", str(aside), str(place)], capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(place)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)

    _begin(path, request.param)
    yield {"train": train, "language": language}[request.param], path, refuse
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


PLACES = [".", *(pytest.param(place, marks=pytest.mark.slow) for place in ("checkpoints", "config.json"))]


@pytest.mark.parametrize("where", PLACES)
def test_resuming_a_read_only_run_names_a_copy_as_the_way_out(begun, where, capsys):
    command, path, refuse = begun
    (path / "checkpoints" / "step_000000000001").mkdir(parents=True)
    refuse(where)
    line = errors_of(command, ["--resume", "--out", str(path)], capsys)
    assert str(path) in line and "such as a copy of it" in line
    assert "read-only file system" in line or where in line


def test_a_read_only_run_is_read_and_what_would_write_refuses_in_one_line(begun, capsys):
    _, path, refuse = begun
    refuse()
    assert RunFolder.open(path).read_metrics() is not None
    with pytest.raises(StorageError, match=r"read-only file system.*; copy the folder and resume the copy"):
        RunFolder.resume(path)
    assert "such as a copy of it" in errors_of(report, [str(path)], capsys)
    if RunFolder.open(path).config.get("room") is None:
        assert "such as a copy of it" in errors_of(evaluate, [str(path)], capsys)
