"""The command lines that lay runs beside each other: dipod sweep and dipod compare."""

import csv
import importlib.util
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from refusals import begun_run, errors_of

from dipod_jax.commands import ablation, compare, sweep
from dipod_jax.config import differences
from dipod_jax.envs.tasks import TASKS
from dipod_jax.presets import make_config, smoke
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json
from dipod_jax.studies.sweep.plan import read_plan

ROOT = Path(__file__).parents[2]
SMOKE = ["--preset", "smoke", "--backend", "native"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--betas"], "--betas"),
        (["--betas", "0", "0"], "different"),
        (["--betas", "0.002", "2e-3"], "different"),
        (["--betas", "0", "nan"], "--beta nan"),
        (["--betas", "0", "--resume"], "--resume"),
        (["--betas", "0", "--task", "Foo"], "--task Foo"),
        (["--betas", "0", "x"], "--betas x is not allowed: numbers, or auto"),
        (["--tasks", "BallInCup", "BallInCup"], "--tasks"),
        (["--task", "BallInCup", "--tasks", "BallInCup"], "--tasks"),
        (["--objectives", "fpo", "sac"], "sac"),
        (["--betas", "0", "--launcher", "pbs"], "--launcher pbs is not allowed: one of kubernetes, local, ray, slurm"),
        (["--betas", "0", "--shard", "3/2"], "--shard 3/2 is not allowed: i/n with 0 <= i < n"),
        (["--betas", "0", "--shard", "0/1", "--launcher", "slurm"], "--shard"),
        (["--betas", "0", "--shard"], "SLURM_ARRAY_TASK_ID"),
        (["--betas", "0", "--workers", "0"], "--workers 0 is not allowed: at least 1"),
        (
            ["--betas", "0", "--ray-address", "auto"],
            "--ray-address auto is not allowed: left out with",
        ),
        (["--betas", "0", "--grid", "learning.nothing", "1"], "--learning.nothing is not an option"),
        (["--grid", "beta", "0", "1"], "--grid beta is not allowed: use --betas"),
        (["--grid", "logger", "none", "wandb"], "--grid logger"),
        (["--grid", "learning.learning-rate"], "--grid learning.learning-rate"),
        (["--grid", "learning.learning-rate", "1e-3", "0.001"], "values that differ in what is trained"),
        (["--grid", "learning.num-epochs", "1", "--grid", "learning.num-epochs", "2"], "each option once"),
        (["--betas", "0", "--seeds", "2", "--seed-list", "1"], "--seeds with --seed-list"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_and_writes_nothing(arguments, words, capsys, tmp_path):
    out = tmp_path / "sweep"
    assert words in errors_of(sweep, [*SMOKE, *arguments, "--out", str(out)], capsys)
    assert not out.exists()


@pytest.mark.parametrize(("objective", "beta"), [("fpo", 0.05), ("ppo", 0.0)])
def test_a_sweep_of_one_run_takes_the_beta_of_a_single_run(objective, beta, tmp_path):
    (unit,) = sweep.parse([*SMOKE, "--objectives", objective, "--out", str(tmp_path / "s")]).planned
    assert unit.config.beta == beta


def test_a_sweep_into_the_folder_of_a_run_is_refused(tmp_path, capsys):
    begun_run(tmp_path / "run")
    line = errors_of(sweep, ["--betas", "0", "--out", str(tmp_path / "run")], capsys)
    assert "a run is there" in line and not (tmp_path / "run" / "plan.csv").exists()


def test_the_ray_launcher_without_ray_is_one_line_that_names_the_extra(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find_spec(name, *a))
    arguments = [*SMOKE, "--betas", "0", "--launcher", "ray", "--out", str(tmp_path / "s")]
    assert "pip install 'dipod-jax[ray]'" in errors_of(sweep, arguments, capsys)
    assert not (tmp_path / "s").exists()


def test_a_sweep_is_every_task_objective_grid_point_and_beta_and_a_dry_run_writes_nothing(tmp_path, capsys):
    grid = ["--grid", "learning.learning-rate", "3e-4", "1e-3", "--grid", "policy.hidden-sizes", "8,8", "8"]
    tasks = ["--tasks", "BallInCup", "FingerSpin", "--objectives", "fpo", "--betas", "0", "auto", "--seeds", "2"]
    arguments = [*SMOKE, *tasks, *grid, "--out", str(tmp_path / "s"), "--dry-run"]
    request = sweep.parse(arguments)
    units = request.job.units
    assert len(units) == len({unit.id for unit in units}) == 2 * 4 * 2
    seen = {
        (u.config.task, u.config.learning.learning_rate, u.config.policy.hidden_sizes, u.config.beta) for u in units
    }
    rates, sizes = (3e-4, 1e-3), ((8, 8), (8,))
    assert seen == set(itertools.product(("BallInCup", "FingerSpin"), rates, sizes, (0.0, "auto")))
    sweep.sweep(request)
    out = capsys.readouterr().out
    assert "16 units, 16 new, 0 finished before" in out and out.count("waiting") == 16
    assert not (tmp_path / "s").exists()


def test_more_betas_extend_the_plan_and_what_is_finished_stays(tmp_path, capsys):
    trained = []
    launcher = Mock(waits=True, submit=lambda job: trained.append([unit.config.beta_label for unit in job.units]))

    def run(*betas):
        request = sweep.parse([*SMOKE, "--betas", *betas, "--out", str(tmp_path / "s"), "--workers", "1"])
        sweep.sweep(replace(request, launcher=launcher))
        return request

    with pytest.raises(SystemExit) as failed:
        run("0")
    assert failed.value.code == 1 and trained == [["0"]]
    (unit,) = read_plan(tmp_path / "s")
    folder = RunFolder.create(unit.folder, to_json(unit.config))
    folder.write_result({"env_steps": unit.config.planned_steps})
    folder.close()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("0.5", "0")
    assert "2 units, 1 new, 1 finished before" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "s" / "plan.csv").open()))
    assert [(row["beta"], row["seeds"]) for row in rows] == [("0", "0"), ("0.5", "0")]
    assert rows[0]["folder"] == f"units/BallInCup-fpo-beta0-{rows[0]['id']}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parts", "recipe", "no-such-part"], "--parts no-such-part is not allowed: one or more of recipe, "),
        (["--preset", "paper"], "--preset"),
        (["--parts", "small-rollouts", "--task", "BallInCup"], "--parts small-rollouts is not allowed: the recipe of"),
        (["--parts=small-rollouts", "--task", "BallInCup"], "the recipe of BallInCup has it"),
        (["--parts", "no-beta", "--task", "Foo"], "--task Foo"),
        (["--parts", "no-beta", "--launcher", "pbs"], "--launcher pbs"),
        (["--parts", "no-beta", "--seeds", "2", "--seed-list", "1"], "--seeds with --seed-list"),
        (["--parts", "no-beta", "--resume"], "--resume"),
    ],
)
def test_a_mistake_in_an_ablation_is_one_line_and_writes_nothing(arguments, words, capsys, tmp_path):
    out = tmp_path / "ablation"
    assert words in errors_of(ablation, [*arguments, "--out", str(out)], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("task", "has"),
    [
        ("BallInCup", {"small-rollouts", "advantages-once"}),
        ("FingerTurnHard", {"large-rollouts", "advantages-often"}),
    ],
)
def test_every_arm_of_an_ablation_differs_from_the_recipe_in_its_own_options_alone(task, has, tmp_path):
    units = ablation.parse(["--task", task, "--backend", "native", "--out", str(tmp_path / "a")]).planned
    arms = {unit.grid["part"]: unit.config for unit in units}
    assert arms.pop("recipe").preset == "cpu"
    recipe, _ = make_config("cpu", task, "fpo", "native")
    changed = {part: set(differences(recipe, arm)) - {"out"} for part, arm in arms.items()}
    assert has == {part for part in ablation.PARTS if part not in changed} - {"recipe"}
    options = lambda part: {x.removeprefix("--").replace(".no-", ".") for x in ablation.PARTS[part] if x[:2] == "--"}
    assert changed == {part: options(part) for part in arms}


def test_a_shard_without_units_is_shown_as_such(tmp_path, capsys):
    arguments = [*SMOKE, "--betas", "0", "--out", str(tmp_path / "s"), "--shard", "1/2", "--dry-run"]
    sweep.sweep(sweep.parse(arguments))
    assert "1 unit, 1 new, 0 of them in this shard" in capsys.readouterr().out


def test_an_ablation_into_the_folder_of_something_else_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun_run(tmp_path / "runs" / "ablation" / "BallInCup")
    line = errors_of(ablation, ["--parts", "no-beta", "--task", "BallInCup"], capsys)
    assert "runs/ablation/BallInCup is not allowed: a run is there" in line


def test_an_ablation_is_a_sweep_over_the_parts_which_another_command_extends(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = Mock(waits=False)

    def run(*arguments):
        request = ablation.parse(["--task", "BallInCup", "--backend", "native", "--seeds", "2", *arguments])
        sweep.sweep(replace(request, launcher=launcher))
        return request.job

    job = run("--parts", "recipe", "no-beta", "--workers", "2")
    assert job.out == Path("runs/ablation/BallInCup") and job.workers == 2
    run("--parts", "clip", "recipe")
    assert "2 units, 1 new, 0 finished before; 1 more of other commands" in capsys.readouterr().out
    rows = list(csv.DictReader((job.out / "plan.csv").open()))
    assert [(row["part"], row["beta"], row["seeds"]) for row in rows] == [
        ("recipe", "0.05", "0 1"),
        ("no-beta", "0", "0 1"),
        ("clip", "0.05", "0 1"),
    ]


def test_a_folder_with_a_name_too_long_is_one_line(capsys):
    line = errors_of(sweep, ["--betas", "0", "--out", "x" * 300], capsys)
    assert "--out" in line and "too long" in line


def test_help_of_a_sweep_says_that_it_resumes_by_itself(capsys):
    sweep.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "To continue a sweep that was stopped, give the same command again" in said


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
    assert lines[2] == ["fpo, beta 0", "600 950", "300 950", "10 20", "- 20", "- 20"]
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
def test_a_sweep_trains_every_beta_on_a_core_of_its_own_and_goes_on_where_it_was_left(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", "--preset", "smoke", "--betas", "0", "0.01"]
    command += ["--logger", "none", "--out", str(tmp_path / "s"), "--workers", "2"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 units, 2 new, 0 finished before" in first.stdout and "the report is" in first.stdout
    for beta in (0.0, 0.01):
        (folder,) = (tmp_path / "s" / "units").glob(f"BallInCup-fpo-beta{beta:g}-*")
        result = json.loads((folder / "result.json").read_text())
        assert result["beta"] == beta and result["env_steps"] == 8192
        assert json.loads((folder / "config.json").read_text())["machine"]["cpu_count"] == 1
    assert "--betas 0 0.01" in (tmp_path / "s" / "report.html").read_text()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 units, 0 new, 2 finished before" in second.stdout


def test_make_tasks_trains_every_task_of_the_suite_by_the_recipe_and_by_ppo():
    done = subprocess.run(["make", "--dry-run", "tasks"], cwd=ROOT, capture_output=True, text=True, check=True)
    sweeps = [line.split() for line in done.stdout.splitlines() if "experiments.sweep" in line]
    for ppo in (False, True):
        tasks = []
        for words in sweeps:
            if ("ppo" in words) == ppo:
                rest = words[words.index("--tasks") + 1 :]
                tasks += rest[: next(i for i, word in enumerate(rest) if word.startswith("--"))]
        assert sorted(tasks) == sorted(TASKS)
