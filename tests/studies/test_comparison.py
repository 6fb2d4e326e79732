"""Runs beside each other: which records make one curve, what a run is called, what its row says."""

import pytest

from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.studies.comparison import compare, default_labels, read_runs, row

OLD = {"task": "BallInCup", "objective": "fpo", "beta": 0.05, "fpo": {"clip_epsilon": 0.05}}
NEW = {"task": "BallInCup", "objective": {"name": "ppo", "clip_epsilon": 0.1}, "beta": 0.0}


def folder(path, config, returns: dict[int, list[float]]) -> RunFolder:
    run = RunFolder.create(path, config)
    for seed, values in returns.items():
        for index, value in enumerate(values):
            head = {"seed": seed, "iteration": index, "env_steps": 1000 * index, "wall_clock_s": 10.0 * index}
            run.append_metrics({"kind": "evaluation", **head, "return_mean": value})
            run.append_metrics({"kind": "train", **head, "cfm_loss": 0.5})
    return run


def test_runs_of_one_label_are_read_as_one_with_the_seeds_of_both(tmp_path):
    folders = [folder(tmp_path / str(seed), OLD, {seed: [0.0, 1.0]}) for seed in (1, 2)]
    runs = read_runs(folders, ["same", "same"])
    assert list(runs) == ["same"]
    assert [(r["seed"], r["return_mean"]) for r in runs["same"].evaluations] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [r["cfm_loss"] for r in runs["same"].records] == [0.5] * 4


def test_a_seed_that_a_label_has_already_is_refused(tmp_path):
    folders = [folder(tmp_path / name, OLD, {3: [0.0]}) for name in "ab"]
    with pytest.raises(RunFolderError, match="b: seed 3 is in 'same' already; give --labels that differ"):
        read_runs(folders, ["same", "same"])


def test_runs_are_called_by_objective_and_beta_and_by_their_path_where_that_is_the_same(tmp_path):
    old, new = folder(tmp_path / "old", OLD, {}), folder(tmp_path / "new", NEW, {})
    assert default_labels([old, new]) == ["fpo, beta 0.05", "ppo, beta 0"]
    assert default_labels([old, old]) == [str(old.path)] * 2


def test_a_row_holds_best_last_and_the_seconds_to_each_threshold():
    returns = {1: [0.0, 600.0, 300.0], 2: [0.0, 100.0, 950.0]}
    evaluations = [
        {"seed": seed, "return_mean": value, "wall_clock_s": 10.0 * index}
        for seed, values in returns.items()
        for index, value in enumerate(values)
    ]
    assert row("a", evaluations) == {
        "run": "a",
        "best": "600 950",
        "last": "300 950",
        "seconds to 500": "10 20",
        "seconds to 700": "- 20",
        "seconds to 900": "- 20",
    }


def test_a_comparison_returns_its_table_and_draws_into_a_new_folder(tmp_path):
    runs = [folder(tmp_path / "a", OLD, {1: [0, 600]}), folder(tmp_path / "b", NEW, {1: [0, 10]})]
    lines = compare([run.path for run in runs], tmp_path / "c" / "d", labels=("A", "B")).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["A", "B"]
    assert sorted(path.name for path in (tmp_path / "c" / "d").iterdir()) == ["drift.png", "returns.png"]
