"""The command line of the exact diffusion over V^L."""

import json
from typing import get_args

import numpy as np
import pytest

from dipod_jax.commands import tinydiffusion
from dipod_jax.toys import models
from dipod_jax.toys.options import STUDIES, Model


@pytest.mark.parametrize(
    "arguments,named",
    [
        (["--length", "1"], ["--length", "1", "at least 2 and at most 12"]),
        (["--length", "600"], ["--length", "600", "at least 2 and at most 12"]),
        (["--length", "12", "--vocab", "1" + "0" * 18], ["--length", "12", "GiB"]),
        (["--length", "9", "--vocab", "4"], ["--length", "9", "GiB", "--memory-limit"]),
        (["--vocab", "1"], ["--vocab", "1"]),
        (["--study", "everything"], ["--study", "everything", "interleave"]),
        (["--study"], ["--study", "without a value"]),
        (["--model", "lstm"], ["--model", "lstm", "transformer"]),
        (["--steps", "-5"], ["--steps", "-5"]),
        (["--learning-rate", "nan"], ["--learning-rate", "nan"]),
        (["--beta", "-1"], ["--beta", "-1.0"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--eubo-order", "0.9"], ["--eubo-order", "0.9"]),
        (["--estimator", "antithetic", "--num-draws", "3"], ["--num-draws", "3", "even"]),
        (["--estimator", "uniform", "--study", "interleave"], ["--estimator", "uniform", "exact"]),
        (["--memory-limit", "inf"], ["--memory-limit", "inf"]),
        (["--len", "3"], ["--len"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_option_and_exit_2(arguments, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tinydiffusion.main([*arguments, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in named), captured.err
    assert not (tmp_path / "run").exists()


def test_the_names_the_command_line_knows_are_those_of_the_library():
    assert tuple(models.MODELS) == get_args(Model)
    assert set(tinydiffusion._RUNS_PER_SEED) == set(STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "studies",
    [
        ["compare"],
        pytest.param(["length", "interleave"], marks=pytest.mark.slow),
        pytest.param(["beta", "monotone"], marks=pytest.mark.slow),
        pytest.param(["monte-carlo"], marks=pytest.mark.slow),
    ],
)
def test_a_study_writes_its_table_its_figure_and_its_arrays(studies, tmp_path, capsys):
    options = ["--length", "2", "--steps", "8", "--seeds", "2", "--study", *studies]
    tinydiffusion.main([*options, "--out", str(tmp_path)])
    assert json.loads((tmp_path / "config.json").read_text())["length"] == 2
    printed = capsys.readouterr().out
    for study in studies:
        assert (tmp_path / f"{study}.png").read_bytes()[:4] == b"\x89PNG"
        table = (tmp_path / f"{study}.md").read_text()
        assert len({line.count("|") for line in table.splitlines()}) == 1 and table in printed
        arrays = np.load(tmp_path / f"{study}.npz")
        for name in arrays:
            if arrays[name].dtype.kind == "f" and name != "gap_matched":  # nan there: the level was never reached
                assert np.isfinite(arrays[name]).all(), (study, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(["--model", "transformer"], marks=pytest.mark.slow),
        ["--estimator", "antithetic", "--num-draws", "2"],
    ],
)
def test_other_models_and_estimators_run(extra, tmp_path):
    tinydiffusion.main(["--length", "2", "--steps", "8", "--seeds", "1", *extra, "--out", str(tmp_path)])
    assert "FPO + DiPOD" in (tmp_path / "compare.md").read_text()
