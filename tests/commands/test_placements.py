"""The command line of dipod placements."""

import json

import pytest
from refusals import errors_of

from dipod_jax.commands import placements
from dipod_jax.presets import make_config
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json

TINY = ["--num-draws", "2", "--batch", "4", "--redraws", "8", "--fit-steps", "2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-draws", "3"], ["--num-draws 3", "even"]),
        (["--delta", "1"], ["--delta 1"]),
        (["--target", "ring"], ["--target ring", "two-modes"]),
        (["--run", "nowhere"], ["nowhere"]),
        (["--seed", "99999999999999999999"], ["--seed"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_exit_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = errors_of(placements, arguments, capsys)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_gaussian_policy_is_refused(tmp_path, capsys):
    RunFolder.create(tmp_path / "ppo", to_json(make_config("smoke", "BallInCup", "ppo", "native")[0]))
    line = errors_of(placements, ["--run", str(tmp_path / "ppo")], capsys)
    assert line.startswith("error: --run") and "flow" in line


@pytest.mark.slow
def test_the_result_holds_every_placement_that_was_printed(tmp_path, capsys):
    placements.main([*TINY, "--out", str(tmp_path / "p")])
    rows = json.loads((tmp_path / "p" / "result.json").read_text())["rows"]
    names = [(row["placement"], row["time_measure"]) for row in rows]
    assert len(names) == len(set(names)) == 9 and ("grid", "log-uniform") not in names
    printed = capsys.readouterr().out
    assert all(name in printed for name, _ in names)
