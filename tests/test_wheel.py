"""The package as a stranger installs it: a wheel, in an environment of its own, used from a folder of his own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    *("--task", "PendulumSwingup", "--preset", "smoke", "--backend", "native", "--logger", "none"),
    *("--total-steps", "128", "--rollout.num-envs", "8", "--rollout.num-steps", "8", "--policy.hidden-sizes", "8"),
    *("--learning.minibatch-size", "32", "--critic.hidden-sizes", "8", "--drift.interval", "0"),
    *("--evaluation.num-episodes", "2", "--evaluation.num-episodes-during", "2"),
)
PROGRAM = """
import experiments, jax, numpy
import dipod_jax
assert experiments.OWNER == "the user", experiments.__file__
config = dipod_jax.make_config(
    "PendulumSwingup", preset="smoke", backend="native", logger="none", out="second", total_steps=128,
    rollout={"num_envs": 8, "num_steps": 8}, policy={"hidden_sizes": (8,)}, critic={"hidden_sizes": (8,)},
    learning={"minibatch_size": 32}, drift={"interval": 0}, evaluation={"num_episodes": 2, "num_episodes_during": 2},
)
run_dir = dipod_jax.train(config)
action = dipod_jax.load_policy(run_dir)(numpy.zeros((4, 3), numpy.float32), jax.random.key(0))
assert action.shape == (4, 1) and abs(action).max() < 1
print(dipod_jax.__file__, dipod_jax.evaluate(run_dir, episodes=2)["episodes"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of what the build reads: a build leaves folders beside its source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "dipod_jax", source / "dipod_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments", source / "experiments")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` of an environment that holds the wheel and sees this environment's other packages."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
    return home / "bin"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with an `experiments` package of the user's own."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "__init__.py").write_text('OWNER = "the user"\n')
    (folder / "experiments" / "train.py").write_text('raise SystemExit("the user\'s own script was run")\n')
    return folder


def run(command, workplace) -> str:
    """Standard output of a command of the environment, which knows nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"MUJOCO_GL": "disable"}
    done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_with_its_templates_types_and_command(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"dipod_jax", "dipod_jax-0.1.0.dist-info"}
    assert {"dipod_jax/py.typed", "dipod_jax/report/templates/run.html", "dipod_jax/commands/train.py"} <= set(names)
    charts = {f"dipod_jax/report/static/{name}" for name in ("study.js", "uplot/uPlot.iife.min.js", "uplot/LICENSE")}
    assert charts <= set(names)
    entry_points = zipfile.ZipFile(wheel).read("dipod_jax-0.1.0.dist-info/entry_points.txt").decode()
    assert "dipod = dipod_jax.commands:main" in entry_points


@pytest.mark.slow
def test_the_installed_command_trains_and_evaluates_beside_a_package_named_experiments(installed, workplace):
    run([installed / "dipod", "train", *TINY, "--out", "first"], workplace)
    stored = json.loads((workplace / "first" / "config.json").read_text())
    assert stored["command"].startswith("dipod train --task PendulumSwingup") and stored["git"] is None
    result = json.loads(run([installed / "dipod", "evaluate", "first", "--episodes", "2", "--no-video"], workplace))
    assert result["task"] == "PendulumSwingup" and 0 <= result["return"]["mean"] <= 1000


@pytest.mark.slow
def test_the_installed_library_trains_loads_and_evaluates_from_python(installed, workplace):
    home, episodes = run([installed / "python", "-c", PROGRAM], workplace).splitlines()[-1].split()
    assert Path(home).is_relative_to(installed.parent) and episodes == "2"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_finds_all_that_it_imports_in_the_installed_wheel(notebook, installed, workplace):
    cells = [cell.source for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]
    run([installed / "python", "-c", "\n".join(cells[:2])], workplace)
