"""How the tests of every command hold a mistake: exit status 2 and one line."""

from pathlib import Path

import pytest

from dipod_jax import presets
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json


def errors_of(command, arguments, capsys) -> str:
    """The one line that `command.main` leaves on standard error."""
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def begun_run(path: Path) -> None:
    """A run folder of a smoke run that has trained one iteration."""
    begun = RunFolder.create(path, to_json(presets.make_config("smoke", "BallInCup", "fpo", "native")[0]))
    begun.append_metrics({"kind": "train", "seed": 0, "iteration": 1, "env_steps": 1024, "wall_clock_s": 1.0})
    begun.close()
