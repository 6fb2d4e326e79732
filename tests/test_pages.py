"""What a page tells its reader to type: its Python runs, its commands and options exist."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_page import python_blocks

from dipod_jax.commands import COMMANDS
from dipod_jax.config import Config
from dipod_jax.language.config import make_config as make_language_config
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.policies import POLICIES
from dipod_jax.regularisers import REGULARISERS

ROOT = Path(__file__).resolve().parents[1]
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
WITH_PYTHON = [page for page in [ROOT / "README.md", *HOWTO] if python_blocks(page)]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]
# Of Slurm, uv, gcloud and XLA.
NOT_OURS = ("--xla", "--signal", "--array", "--nodes", "--ntasks", "--gpus", "--python", "--worker", "--command")


def test_every_how_to_about_something_of_one_s_own_has_python_that_is_run():
    assert {"README.md", "own_task.md", "own_objective.md", "own_policy.md"} <= {page.name for page in WITH_PYTHON}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_in_an_empty_folder(page, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MUJOCO_GL": "disable"}
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def dotted(options: Any, prefix: str = "") -> Iterator[str]:
    """Every option of a config by its name on the command line, those of groups in groups as well."""
    for f in dataclasses.fields(options):
        yield prefix + f.name
        if dataclasses.is_dataclass(value := getattr(options, f.name)):
            yield from dotted(value, f"{prefix}{f.name}.")


def known_options() -> set[str]:
    """Every option of `dipod train` and `dipod language`; the fields and flags in the files of other commands, without
    their group."""
    groups = {f.name: [type(getattr(Config(), f.name))] for f in dataclasses.fields(Config)}
    groups |= {"objective": list(OBJECTIVES.values()), "policy": list(POLICIES.values())}
    groups |= {f"regularisers.{name}": [member] for name, member in REGULARISERS.items()}
    names = {f.name for f in dataclasses.fields(Config)} | {"help", "version"}
    for group, classes in groups.items():
        names |= {f"{group}.{f.name}" for c in classes if dataclasses.is_dataclass(c) for f in dataclasses.fields(c)}
    names |= set(dotted(make_language_config()))
    package = ROOT / "dipod_jax"
    files = [*(package / "commands").glob("*.py"), *package.glob("*/*/*.py"), *(package / "language").glob("*.py")]
    for file in [*files, *(ROOT / "benchmarks").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        names |= set(re.findall(r"^    (\w+): ", text, re.MULTILINE)) | set(re.findall(r"--([a-z][a-z-]+)", text))
    return {f"--{name.replace('_', '-')}" for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_exists(page):
    text, known = page.read_text(encoding="utf-8"), known_options()
    commands = set(re.findall(r"(?:^|`)dipod ([a-z][a-z0-9]*)", text, re.MULTILINE))
    assert commands <= set(COMMANDS)
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text))
    groups = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(Config)}
    of_another_command = {
        name for name in options if name.split(".")[0] not in groups and f"--{name.split('.')[-1]}" in known
    }
    unknown = {name for name in options - known - of_another_command if not name.startswith(NOT_OURS)}
    assert not unknown


def test_a_command_outside_the_environment_says_in_one_line_how_to_set_it_up():
    command = [sys.executable, "-S", "-m", "experiments.train", "--help"]  # -S: without any installed package
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "is not installed in this Python: run `make setup`, then `.venv/bin/python -m" in done.stderr
