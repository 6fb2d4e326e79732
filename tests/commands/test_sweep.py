"""The command lines that lay runs beside each other: dipod sweep and dipod compare."""

import json
import subprocess
import sys
from unittest.mock import Mock

import pytest
from refusals import errors_of

from dipod_jax.commands import ablation, compare, sweep
from dipod_jax.config import differences
from dipod_jax.presets import make_config, smoke
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--betas"], "--betas"),
        ([], "--betas"),
        (["--betas", "0", "0"], "different"),
        (["--betas", "0.002", "2e-3"], "different"),
        (["--betas", "0", "nan"], "--beta nan"),
        (["--betas", "0", "--resume"], "--resume"),
        (["--betas", "0", "--task", "Foo"], "--task Foo"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_and_writes_nothing(arguments, words, capsys, tmp_path):
    out = tmp_path / "sweep"
    assert words in errors_of(sweep, [*arguments, "--out", str(out)], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parts", "recipe", "no-such-part"], "--parts no-such-part is not allowed: one or more of recipe, "),
        (["--preset", "paper"], "--preset"),
        (["--parts", "2-draws", "--task", "BallInCup"], "--parts 2-draws is not allowed: the recipe of BallInCup has"),
        (["--parts=2-draws", "--task", "BallInCup"], "--parts 2-draws is not allowed: the recipe of BallInCup has it"),
        (["--parts", "no-beta", "--task", "Foo"], "--task Foo"),
    ],
)
def test_a_mistake_in_an_ablation_is_one_line_and_writes_nothing(arguments, words, capsys, tmp_path):
    out = tmp_path / "ablation"
    assert words in errors_of(ablation, [*arguments, "--out", str(out)], capsys)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "has"),
    [
        ("BallInCup", {"small-rollouts", "advantages-once", "2-draws"}),
        ("FingerTurnHard", {"large-rollouts", "advantages-often", "4-draws"}),
    ],
)
def test_every_arm_of_an_ablation_differs_from_the_recipe_in_its_own_options_alone(task, has, tmp_path):
    arms = ablation.parse(["--task", task, "--out", str(tmp_path / "a")])
    assert arms.pop("recipe").preset == "cpu"
    recipe, _ = make_config("cpu", task, "fpo")
    changed = {part: set(differences(recipe, arm)) - {"out", "backend"} for part, arm in arms.items()}
    assert has == {part for part in ablation.PARTS if part not in changed} - {"recipe"}
    options = lambda part: {x.removeprefix("--").replace(".no-", ".") for x in ablation.PARTS[part] if x[:2] == "--"}
    assert changed == {part: options(part) for part in arms}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command, listed, arm", [(sweep, ["--betas", "0", "0.05"], "beta0"), (ablation, [], "no-beta")]
)
def test_an_arm_that_was_begun_with_other_options_is_refused(command, listed, arm, tmp_path, capsys):
    arguments = [*listed, "--out", str(tmp_path), "--task", "BallInCup", "--preset", "cpu", "--backend", "native"]
    if command is ablation:
        arguments.remove("--preset"), arguments.remove("cpu")
    begun = ["--seed-list", "11", "12", "13"]
    arms = command.parse([*arguments, *begun])
    config = (arms if isinstance(arms, dict) else {"beta0": arms[0]})[arm]
    RunFolder.create(config.out, to_json(config)).close()
    line = errors_of(command, arguments, capsys)
    assert "--seed-list None is not allowed" in line and "begun with (11, 12, 13)" in line
    assert command.parse([*arguments, *begun])  # goes on


def test_a_folder_with_a_name_too_long_is_one_line(capsys):
    line = errors_of(sweep, ["--betas", "0", "--out", "x" * 300], capsys)
    assert "--out" in line and "too long" in line


def test_help_of_a_sweep_says_that_it_resumes_by_itself(capsys):
    sweep.main(["--help"])
    assert "a sweep\nthat was stopped goes on" in capsys.readouterr().out


def run_folder(path, beta: float, returns: dict[int, list[float]]) -> None:
    folder = RunFolder.create(path, to_json(smoke("BallInCup", "fpo")) | {"beta": beta})
    for seed, values in returns.items():
        for index, value in enumerate(values):
            head = {"seed": seed, "iteration": index, "env_steps": 1000 * index, "wall_clock_s": 10.0 * index}
            folder.append_metrics({"kind": "evaluation", **head, "return_mean": value, "zero_noise_return_mean": 0.0})
            folder.append_metrics({"kind": "train", **head, "cfm_loss": 0.5})


def test_comparing_prints_best_last_and_times_and_draws_both_pictures(tmp_path, capsys):
    run_folder(tmp_path / "a", 0.0, {1: [0, 600, 300], 2: [0, 100, 950]})
    run_folder(tmp_path / "b", 0.5, {1: [0, 10, 20]})
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["run", "best", "last", "seconds to 500", "seconds to 700", "seconds to 900"]
    assert lines[2] == ["fpo, beta 0.0", "600 950", "300 950", "10 20", "- 20", "- 20"]
    assert lines[3] == ["fpo, beta 0.5", "20", "20", "-", "-", "-"]
    assert all((tmp_path / "c" / name).stat().st_size > 10_000 for name in ("returns.png", "drift.png"))


def test_runs_of_one_label_are_seeds_of_one_curve(tmp_path, capsys):
    run_folder(tmp_path / "a", 0.0, {1: [0, 600]})
    run_folder(tmp_path / "b", 0.0, {2: [0, 100]})
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    compare.main([*folders, "--labels", "same", "same", "--out", str(tmp_path / "c")])
    row = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")[1:-1]]
    assert row == ["same", "600 100", "600 100", "10 -", "- -", "- -"]


def test_comparing_what_is_no_run_folder_is_one_line(tmp_path, capsys):
    assert "is not a run folder" in errors_of(compare, [str(tmp_path)], capsys)
    run_folder(tmp_path / "begun", 0.0, {})
    assert "has no evaluation to draw" in errors_of(compare, [str(tmp_path / "begun")], capsys)


@pytest.mark.slow
def test_a_sweep_trains_every_beta_and_goes_on_where_it_was_left(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", "--preset", "smoke", "--betas", "0", "0.01"]
    command += ["--logger", "none", "--out", str(tmp_path / "s")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "finished before" not in first.stdout
    for beta in (0.0, 0.01):
        result = json.loads((tmp_path / "s" / f"beta{beta:g}" / "result.json").read_text())
        assert result["beta"] == beta and result["env_steps"] == 8192
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert second.stdout.count("finished before") == 2


def test_an_arm_that_is_to_go_further_is_not_finished(tmp_path, monkeypatch):
    arguments = ["--preset", "smoke", "--betas", "0", "--out", str(tmp_path / "s")]
    (config,) = sweep.parse(arguments)
    folder = RunFolder.create(config.out, to_json(config))
    folder.write_result({"env_steps": config.planned_steps})
    folder.close()
    trained = []
    monkeypatch.setattr("dipod_jax.training.setup.prepare_jax", lambda config: None)
    monkeypatch.setattr("dipod_jax.training.programs.make_programs", lambda *_: Mock())
    monkeypatch.setattr("dipod_jax.training.loop.train", lambda config, **_: trained.append(config.total_steps))
    monkeypatch.setattr("dipod_jax.studies.comparison.compare", lambda *_, **__: "")
    sweep.main(arguments)
    assert trained == []
    sweep.main([*arguments, "--total-steps", str(2 * config.total_steps)])
    assert trained == [2 * config.total_steps]
