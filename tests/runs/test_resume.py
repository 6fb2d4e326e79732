"""A run that was killed or damaged is the run that was not, or says in which way it is another."""

import numpy as np
import pytest
from fake_run import FakeTrainer, fake_config

from dipod_jax.runs import CheckpointError, RunFolder, latest_checkpoint, restore_checkpoint
from dipod_jax.training import loop

ITERATIONS = 10


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains into `tmp_path / "run"`, without pictures; returns the folder."""
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)

    def train(keywords=None, **options):
        config = fake_config(tmp_path / "run", **options)
        loop.train(config, trainer=FakeTrainer(config.all_seeds), **(keywords or {}))
        return RunFolder.open(tmp_path / "run")

    return train


def records(folder):
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in folder.read_metrics()]


def weights(folder):
    newest = latest_checkpoint(folder.checkpoints)
    assert newest is not None
    state = restore_checkpoint(newest, FakeTrainer().abstract_state())
    return newest.name, np.asarray(state.learner.params["policy"]["w"]).tobytes()


def test_a_damaged_newest_checkpoint_is_said_and_the_run_ends_in_the_same_bits(run, capsys):
    folder = run()
    whole = records(folder), weights(folder)
    (folder.path / "result.json").unlink()
    (folder.checkpoints / f"step_{ITERATIONS:012d}" / "leaves.json").unlink()
    with pytest.raises(CheckpointError, match="--strict-resume"):
        run(resume=True, keywords={"strict_resume": True})
    capsys.readouterr()
    run(resume=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert f"from iteration {ITERATIONS} to iteration {ITERATIONS - 1}" in line and "leaves.json is missing" in line
    assert (records(folder), weights(folder)) == whole


def test_a_foreign_file_in_the_newest_checkpoint_changes_nothing(run, capsys):
    folder = run(total_steps=16 * 4)
    (folder.checkpoints / "step_000000000004" / ".DS_Store").touch()
    run(resume=True, keywords={"strict_resume": True})
    assert "warning" not in capsys.readouterr().out
    train = [r["iteration"] for r in folder.read_metrics() if r["kind"] == "train"]
    assert train == list(range(1, ITERATIONS + 1))
