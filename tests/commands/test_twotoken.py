"""The command line of the two-token toy: what it writes, and how it refuses."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from dipod_jax.commands import twotoken

RUN = [sys.executable, "-m", "experiments.twotoken"]
FINAL_KEYS = {"mean_gap", "max_gap", "gap", "expected_reward", "gradient_cosine", "logits", "probabilities"}


@pytest.mark.parametrize(
    "arguments,named",
    [
        (["--methods", "ppo"], ["--methods", "ppo", "policy-gradient"]),
        (["--methods"], ["--methods", "without a value"]),
        (["--methods", "fpo", "fpo"], ["--methods", "once"]),
        (["--baseline", "mean"], ["--baseline", "mean", "group-std"]),
        (["--eubo", "iwae"], ["--eubo", "iwae", "renyi"]),
        (["--eubo-order", "0.5"], ["--eubo-order", "0.5", "at least 1"]),
        (["--eubo-order", "nan"], ["--eubo-order", "nan"]),
        (["--steps", "-1"], ["--steps", "-1", "at least 0"]),
        (["--steps", "1.5"], ["--steps", "1.5"]),
        (["--steps", "1000000000"], ["--steps", "GiB"]),
        (["--steps", "1" + "0" * 320], ["--steps", "GiB"]),
        (["--beta", "nan"], ["--beta", "nan"]),
        (["--beta", "inf"], ["--beta", "inf"]),
        (["--beta", "-0.1"], ["--beta", "-0.1"]),
        (["--learning-rate", "0"], ["--learning-rate", "0.0", "more than 0"]),
        (["--learning-rate", "nan"], ["--learning-rate", "nan"]),
        (["--init-logit", "inf"], ["--init-logit", "inf", "finite"]),
        (["--optimizer", "lion"], ["--optimizer", "lion", "adam"]),
        (["--bta", "1"], ["--bta"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_exit_2(arguments, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        twotoken.main([*arguments, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in named), captured.err
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_compiled(tmp_path):
    (tmp_path / "file").write_text("")
    start = time.perf_counter()
    done = subprocess.run([*RUN, "--out", str(tmp_path / "file" / "run")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--out" in done.stderr
    assert time.perf_counter() - start < 3


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "result.json").write_text("of another run")
    with pytest.raises(SystemExit) as stop:
        twotoken.main(["--out", str(tmp_path)])
    assert stop.value.code == 2 and "is not empty" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of another run"]


def test_help_and_refusal_do_not_import_jax():
    code = (
        "import sys, dipod_jax.commands.twotoken as e\n"
        "for a in (['--help'], ['--beta', 'nan']):\n"
        "    try: e.main(a)\n"
        "    except SystemExit: pass\n"
        "assert not {'jax', 'flax', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--eubo-order" in done.stdout


@pytest.mark.slow
def test_a_run_writes_every_curve_and_prints_where(tmp_path, capsys):
    options = ["--methods", "fpo", "spg+dipod", "--init-logit", "0.5", "--steps", "40", "--optimizer", "adam"]
    twotoken.main([*options, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "result.json" in printed and "spg+dipod" in printed
    runs = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert list(runs) == ["fpo", "spg+dipod"]
    run = runs["fpo"]["0.5"]
    assert set(run) == {"final", "peak_mean_gap"} and set(run["final"]) == FINAL_KEYS
    assert list(run["final"]["gap"]) == ["AA", "AB", "BA", "BB"]
    curves = np.load(tmp_path / "curves.npz")
    assert curves["mean_gap"].shape == (2, 1, 41) and curves["logits"].shape == (2, 1, 41, 6)
    assert run["final"]["mean_gap"] == curves["mean_gap"][0, 0, -1]
    assert run["peak_mean_gap"] == curves["mean_gap"][0, 0].max()
    probabilities = np.array(list(run["final"]["probabilities"].values()))
    gap = np.array(list(run["final"]["gap"].values()))
    assert run["final"]["mean_gap"] == pytest.approx(probabilities @ gap, abs=1e-15)
    assert (tmp_path / "drift.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "drift.gif").read_bytes()[:3] == b"GIF"


def test_a_run_that_diverges_says_so_and_exits_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        twotoken.main(["--learning-rate", "1e308", "--steps", "50", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert "no longer finite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
