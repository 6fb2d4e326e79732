"""The folder that an export leaves, from a run folder of version 1."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax import commands, load_policy
from dipod_jax.commands.export import check
from dipod_jax.export import ExportError, export_policy, verify

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, whose policy is a flow of 3 observations and 1 action."""
    return shutil.copytree(GOLDEN / "version1_fpo", tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def exported(run):
    return export_policy(run)


@pytest.mark.slow
def test_examples_are_the_actions_of_the_loaded_policy(run, exported):
    with np.load(exported / "examples.npz") as file:
        obs, noise, action = (file[name] for name in ("obs", "noise", "action"))
    assert (obs.shape, noise.shape, action.shape) == ((1000, 3), (1000, 1), (1000, 1))
    key = jax.random.key(3)
    act = load_policy(run)
    with_noise = verify.load_onnx(exported / "policy.onnx")(obs[:1], np.asarray(jax.random.normal(key, (1, 1))))
    assert_allclose(with_noise, act(obs[:1], key), atol=1e-5)
    assert np.abs(action).max() < 1 and action.std() > 0.01


def test_both_files_agree_with_the_library(exported, monkeypatch):
    monkeypatch.setattr(verify, "CALLS", 20)
    found = verify.verify(exported)
    assert set(found) == {"stablehlo", "onnx"}
    assert all(0 <= numbers["max_difference"] <= 1e-5 for numbers in found.values())
    assert all(0 < numbers["microseconds_per_act"] < 1e5 for numbers in found.values())


def test_a_file_that_acts_otherwise_is_found(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "wrong")
    with np.load(folder / "examples.npz") as file:
        arrays = dict(file)
    arrays["action"][17] += 1e-3
    np.savez(folder / "examples.npz", **arrays)
    contract = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**contract, "files": {"onnx": "policy.onnx"}}))
    with pytest.raises(ExportError, match=r"onnx is 1\.0e-03 away from the library"):
        check(folder)


@pytest.mark.slow
def test_the_command_checks_both_files_in_a_process_that_never_imports_the_library(run, tmp_path, capsys):
    commands.main(["export", str(run), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "stablehlo: 1000 observations" in printed and "onnx: 1000 observations" in printed
    code = (
        "import runpy, sys; sys.argv = ['verify.py', sys.argv[2]];"
        f"runpy.run_path({verify.__file__!r}, run_name='__main__');"
        "assert not any(name.startswith('dipod_jax') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "-", str(tmp_path / "out")], check=True)


def test_the_contract_says_how_to_call_and_what_comes_out(exported):
    contract = json.loads((exported / "policy.json").read_text())
    obs, noise = contract["inputs"]
    assert (obs["name"], obs["shape"], noise["shape"]) == ("obs", ["batch", 3], ["batch", 1])
    assert noise["law"].startswith("standard normal, independent")
    assert contract["outputs"][0] | {"meaning": ""} == {
        "name": "action",
        "shape": ["batch", 1],
        "dtype": "float32",
        "range": [-1.0, 1.0],
        "actuators": ["torque"],
        "meaning": "",
    }
    assert (contract["task"], contract["control_step_s"]) == ("PendulumSwingup", 0.02)
    assert contract["files"] == {"stablehlo": "policy.stablehlo", "onnx": "policy.onnx"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formats", "tflite"], "--formats tflite"),
        (["--formats"], "--formats"),
        (["--seed", "9"], "--seed 9 is not allowed"),
        (["--out", "/proc/nothing/here"], "/proc/nothing"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, words, tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "version1_ppo", tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        commands.main(["export", str(folder), *arguments])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1 and words in err
    assert not (folder / "export").exists()


def test_a_task_of_ones_own_that_fails_now_is_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(GOLDEN / "version1_fpo", tmp_path / "run")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("PendulumSwingup", "broken_since:make_env"))
    (tmp_path / "broken_since.py").write_text("import nothing_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        commands.main(["export", str(folder), "--formats", "stablehlo"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1
    assert "fails: ModuleNotFoundError: No module named 'nothing_here'" in err and "broken_since.py, line 1" in err
    assert not (folder / "export").exists()


def test_onnx_without_its_packages_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("dipod_jax.export.errors.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'--formats onnx is not allowed: .*pip install "dipod-jax\[export\]"'):
        export_policy("nowhere", formats=("onnx",))
