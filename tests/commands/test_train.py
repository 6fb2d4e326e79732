"""The training command's mistakes: one line each, exit status 2, nothing written, no physics loaded, at once."""

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from refusals import begun_run

import dipod_jax
from dipod_jax import presets
from dipod_jax.commands import train
from dipod_jax.config import TASKS
from dipod_jax.serialisation import to_json
from dipod_jax.training import loop, setup

ROOT = Path(__file__).resolve().parents[2]
# Runs a command's main and tells on the last line of stdout whether physics came with it.
PROBE = """
    import sys
    from dipod_jax.commands.{module} import main
    try:
        main(sys.argv[1:]{keywords})
    finally:
        print("mujoco" in sys.modules, "warp" in sys.modules)
"""
SECONDS = 6.0  # of a core; 3 on an idle machine


def run(arguments, cwd, module="train", keywords=""):
    """Exit status, stdout without its last line, stderr, whether mujoco or warp was imported, seconds of a core."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    code = textwrap.dedent(PROBE).format(module=module, keywords=keywords)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment)
    seconds = used() - before
    *lines, imported = done.stdout.splitlines()
    return done.returncode, "\n".join(lines), done.stderr, imported, seconds


def refused(arguments, cwd, **options):
    """The one line that a mistake leaves."""
    status, out, err, imported, seconds = run(arguments, cwd, **options)
    assert status == 2 and out == "", err
    assert err.count("\n") == 1 and err.startswith("error: "), err
    assert imported == "False False" and seconds < SECONDS
    return err


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A working folder with a run, a folder of something else and one that cannot be written."""
    root = tmp_path_factory.mktemp("cli")
    begun_run(root / "run")
    (root / "other").mkdir()
    (root / "other" / "thesis.tex").write_text("years of work")
    (root / "file").write_text("")
    return root


MISTAKES = {
    "unknown task": (["--task", "BallInCups"], ["--task", "BallInCups", *TASKS]),
    "locomotion task": (["--task", "Go1JoystickFlatTerrain"], ["--task", "git"]),
    "beta nan": (["--beta", "nan"], ["--beta", "nan", "finite", "at least 0"]),
    "beta infinite": (["--beta", "inf"], ["--beta", "inf", "finite"]),
    "beta negative": (["--beta", "-1"], ["--beta", "-1", "at least 0"]),
    "beta no number": (["--beta", "abc"], ["--beta", "abc", "FLOAT"]),
    "no seeds": (["--seeds", "0"], ["--seeds", "0", "at least 1"]),
    "half a seed": (["--seeds", "1.5"], ["--seeds", "1.5", "INT"]),
    "a seed twice": (["--seed-list", "1", "1"], ["--seed-list", "1 1", "different"]),
    "batch that does not divide": (
        ["--learning.minibatch-size", "1000"],
        ["--learning.minibatch-size", "1000", "divisor", "8192"],
    ),
    "unknown objective": (["--objective", "sac"], ["--objective", "sac", "fpo", "ppo"]),
    "option of another objective": (["--objective.entropy", "0"], ["--objective.entropy"]),
    "no objective": (["--objective"], ["--objective"]),
    "resume into another objective": (
        ["--resume", "--out", "run", "--objective", "ppo"],
        ["--objective", "ppo", "fpo", "--resume"],
    ),
    "unknown preset": (["--preset", "fast"], ["--preset", "fast", "cpu", "paper", "smoke"]),
    "unknown backend": (["--backend", "gpu"], ["--backend", "gpu", "native", "mjx", "warp"]),
    "unknown option": (["--betta", "1"], ["--betta", "--beta"]),
    "option of an objective": (["--objective.clip-epsilon", "0"], ["--objective.clip-epsilon", "0", "more than 0"]),
    "resume what": (["--resume"], ["--resume", "--out"]),
    "resume nothing": (["--resume", "--out", "nowhere"], ["nowhere"]),
    "resume something else": (["--resume", "--out", "other"], ["other", "config.json"]),
    "resume into another config": (
        ["--resume", "--out", "run", "--beta", "0.5"],
        ["--beta", "0.5", "--resume", "0.0"],
    ),
    "resume into another task": (["--resume", "--out", "run", "--task", "FishSwim"], ["--task", "FishSwim"]),
    "folder of another run": (["--out", "run"], ["--out", "run"]),
    "folder in use": (["--out", "other"], ["--out", "other"]),
    "folder with a name too long": (["--out", "x" * 300], ["--out", "too long"]),
    "resume a name too long": (["--resume", "--out", "x" * 300], ["cannot be opened", "too long"]),
    "steps without end": (["--total-steps", "1" + "0" * 320], ["--total-steps", "at least 1"]),
    "folder under a file": (["--out", "file/run"], ["--out", "file"]),
    "unwritable folder": (["--out", "/proc/nothing/run"], ["--out", "/proc/nothing/run"]),
}

QUICK = ("unknown task", "beta nan", "batch that does not divide", "resume into another config", "folder in use")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_option_and_what_is_allowed(folders, name):
    arguments, words = MISTAKES[name]
    before = {path: path.stat().st_mtime_ns for path in folders.rglob("*")}
    if "--preset" not in arguments and "--resume" not in arguments:
        arguments = ["--preset", "cpu", "--backend", "native", *arguments]
    line = refused(arguments, folders)
    assert [word for word in words if word not in line] == []
    assert {path: path.stat().st_mtime_ns for path in folders.rglob("*")} == before


def test_a_command_of_one_task_refuses_another(folders):
    line = refused(["--task", "FishSwim"], folders, keywords=", task='BallInCup'")
    assert "--task FishSwim" in line and "BallInCup" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "nowhere"),
        (["x" * 300], "too long"),
        (["other"], "config.json"),
        (["run", "--seed", "9"], "--seed 9"),
        (["run", "--episodes", "0"], "--episodes 0"),
        (["run", "--backend", "gpu"], "--backend"),
        ([], "RUN_DIR"),
    ],
)
def test_a_mistake_of_the_evaluation_command_is_one_line_too(folders, arguments, word):
    assert word in refused(arguments, folders, module="evaluate")


@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_help_is_quick_and_loads_no_physics(tmp_path, module):
    status, out, _, imported, seconds = run(["--help"], tmp_path, module=module)
    assert status == 0 and imported == "False False" and seconds < SECONDS
    of_training = ["--beta", "--seeds", "--preset", "--resume", "--objective.clip-epsilon"]
    wanted = of_training if module == "train" else ["--episodes"]
    assert [option for option in wanted if option not in out] == []
    assert not list(tmp_path.iterdir())


def test_the_clock_of_a_run_starts_before_jax_is_imported(tmp_path, monkeypatch):
    code = "import sys, time, dipod_jax; print(0 < dipod_jax.STARTED < time.perf_counter(), 'jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "True False\n"
    clocks = []
    monkeypatch.setattr(setup, "prepare_jax", lambda config: None)
    monkeypatch.setattr(loop, "train", lambda config, *, started: clocks.append(started))
    train.main(["--preset", "smoke", "--backend", "native", "--out", str(tmp_path / "run")])
    assert clocks == [dipod_jax.STARTED]


@pytest.mark.slow
def test_help_shows_the_defaults_of_the_preset_that_is_named(tmp_path):
    _, paper, *_ = run(["--preset", "paper", "--help"], tmp_path)
    _, cpu, *_ = run(["--preset", "cpu", "--help"], tmp_path)
    assert "60000000" in paper.replace("_", "") and "1500000" in cpu.replace("_", "")


def test_resume_takes_the_runs_own_options_and_lets_it_go_further(folders):
    from dipod_jax.commands.train import parse

    out = str(folders / "run")
    config = parse(["--resume", "--out", out, "--total-steps", "99999"])
    saved = presets.make_config("smoke", "BallInCup", "fpo", "native")[0]
    assert config.resume and config.total_steps == 99_999
    assert (config.rollout, config.learning, config.policy) == (saved.rollout, saved.learning, saved.policy)


def test_the_default_folder_names_task_objective_and_beta(tmp_path, monkeypatch):
    from dipod_jax.commands.train import parse

    monkeypatch.chdir(tmp_path)
    config = parse(["--preset", "cpu", "--backend", "native", "--task", "FishSwim", "--beta", "2e-3"])
    assert config.out.parent == Path("runs/FishSwim/fpo-beta0.002")
    assert (config.preset, config.task, config.beta) == ("cpu", "FishSwim", 2e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["ballincup", "fingerspin", "fingerturneasy", "fingerturnhard"])
def test_the_four_commands_of_the_paper_train_their_task(command):
    source = (ROOT / "experiments" / f"{command}.py").read_text(encoding="utf-8")
    (task,) = [t for t in TASKS if t.lower() == command]
    assert f'main(task="{task}")' in source


def test_a_config_of_the_command_line_is_what_the_folder_keeps(folders):
    stored = json.loads((folders / "run" / "config.json").read_text())["config"]
    assert stored == json.loads(json.dumps(to_json(presets.make_config("smoke", "BallInCup", "fpo", "native")[0])))
