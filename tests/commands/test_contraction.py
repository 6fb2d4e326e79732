"""The command line of dipod contraction."""

import json

import pytest
from refusals import errors_of

from dipod_jax.commands import contraction
from dipod_jax.studies.contraction.distillation import Distillation

TINY = ["--rounds", "2", "--steps", "2", "--batch", "8", "--fit-steps", "2", "--samples", "256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "rk4"], ["--arms", "rk4", "midpoint-5"]),
        (["--rounds", "0"], ["--rounds", "0"]),
        (["--std", "nan"], ["--std", "nan"]),
        (["--seed", "99999999999999999999"], ["--seed", "2^31"]),
        (["--out", "x" * 300], ["--out", "too long"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_exit_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = errors_of(contraction, arguments, capsys)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_keeps_the_arms_that_are_done(tmp_path, monkeypatch, capsys):
    run = Distillation.run

    def interrupted(self, arm):
        if arm.name == "euler-64":
            raise KeyboardInterrupt
        return run(self, arm)

    monkeypatch.setattr(Distillation, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        contraction.main([*TINY, "--arms", "euler-10", "euler-64", "--out", str(tmp_path / "c")])
    assert stopped.value.code == 130
    (arm,) = json.loads((tmp_path / "c" / "result.json").read_text())["arms"]
    assert arm["name"] == "euler-10" and len(arm["std"]) == 3 and arm["std"][-1] > 0
    assert "euler-10" in capsys.readouterr().out
