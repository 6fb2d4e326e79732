"""The command line of experiments.comparison."""

import pytest
from refusals import errors_of

from dipod_jax.commands import comparison


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objectives", "foo"], ["--objectives foo", "fpo"]),
        (["--objectives"], ["--objectives"]),
        (["--tasks", "Foo"], ["--task Foo"]),
        (["--total-steps", "0"], ["--total-steps 0"]),
        (["--seed-list", "1", "1"], ["--seed-list 1 1", "different"]),
        (["--seed-list", "311"], ["--tuning-seeds 311"]),
        (["--betas", "nan"], ["--betas nan"]),
        (["--trust-factors", "20", "--objectives", "espo"], ["--objective.clip-epsilon-low 3"]),
        (["--out", "x" * 300], ["--out", "too long"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_exit_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = errors_of(comparison, arguments, capsys)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_the_command_runs_the_study_and_prints_its_table(tmp_path, monkeypatch, capsys):
    def fails(self, unit):
        raise RuntimeError("no device")

    monkeypatch.setattr("dipod_jax.training.setup.prepare_jax", lambda config: None)
    monkeypatch.setattr("dipod_jax.studies.methods.training.Trainer.train", fails)
    arguments = ["--objectives", "ppo", "--tasks", "BallInCup", "--out", str(tmp_path / "c"), "--backend", "native"]
    comparison.main(arguments)
    printed = capsys.readouterr().out
    assert "ppo on BallInCup: no tuning run has a return" in printed and "RuntimeError: no device" in printed
    assert printed.splitlines()[-1].startswith(f"written to {tmp_path / 'c'}: comparison.md")
