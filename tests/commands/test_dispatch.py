"""`dipod COMMAND`: the list of commands, and what it says of a word that is none."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from dipod_jax import __version__, commands

FOLDER = Path(commands.__file__).parent


def test_every_module_of_the_folder_is_a_command_with_a_main():
    assert set(commands.COMMANDS) == {p.stem for p in FOLDER.glob("[!_]*.py")}
    assert all(callable(import_module(f"dipod_jax.commands.{name}").main) for name in commands.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_every_command_is_listed(arguments, capsys):
    commands.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: dipod COMMAND [options]"
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(commands.COMMANDS)
    assert all(len(line) <= 100 for line in lines)


def test_the_version_is_the_packages(capsys):
    commands.main(["--version"])
    assert capsys.readouterr().out == f"dipod-jax {__version__}\n"


def test_a_word_that_is_no_command_is_one_line_that_proposes_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.main(["trian", "--beta", "1"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: trian is not a command, did you mean train?; see dipod --help\n"


@pytest.mark.parametrize(
    ("words", "called"),
    [(["dipod_jax", "compare"], "dipod compare"), (["experiments.compare"], "python -m experiments.compare")],
)
def test_help_names_the_command_as_it_was_called(words, called):
    out = subprocess.check_output([sys.executable, "-m", *words, "--help"], text=True)
    assert out.startswith(f"usage: {called} ")


def test_the_report_is_written_again_from_the_folder(tmp_path, capsys):
    from dipod_jax.presets import make_config
    from dipod_jax.runs import RunFolder
    from dipod_jax.serialisation import to_json

    RunFolder.create(tmp_path / "run", to_json(make_config("smoke", "BallInCup", "fpo", "native")[0])).close()
    commands.main(["report", str(tmp_path / "run")])
    page = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out == f"report: {page}\n" and "BallInCup" in page.read_text()
    with pytest.raises(SystemExit) as stopped:
        commands.main(["report", str(tmp_path)])
    assert stopped.value.code == 2 and "is neither a run folder" in capsys.readouterr().err
