"""Seeds whose updates are all skipped: the others go on, and the run says at its end, or at theirs, why."""

import json

import numpy as np
import pytest
from fake_run import FakePrograms, fake_config

from dipod_jax.cli import run_cli
from dipod_jax.runs import NumbersError, RunFolder
from dipod_jax.training import loop


class Spoilt(FakePrograms):
    """From the fourth iteration on every update of some seeds is skipped, four an iteration."""

    spoilt = (1,)

    def learn(self, learner, transitions):
        learner, metrics = super().learn(learner, transitions)
        skipped = 4.0 * np.maximum(np.asarray(learner.iteration) - 3, 0)
        return learner, metrics | {"skipped_in_a_row": np.where(np.isin(self.seeds, self.spoilt), skipped, 0.0)}


class AllSpoilt(Spoilt):
    spoilt = (0, 1)


def train(config):
    """Exit status of the command."""
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda _: config, lambda config: loop.train(config) and None, [])
    return ended.value.code


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)


CAUSE = (
    "seed {}: the last {} updates were skipped, as their gradients are not finite over a finite rollout: policy or "
    "critic has run away; a lower --learning.learning-rate may hold them"
)


def test_ten_skipped_updates_in_a_row_of_every_seed_end_the_run_in_one_line_and_keep_its_last_checkpoint(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "make_programs", lambda config, seeds: AllSpoilt(seeds))
    config = fake_config(tmp_path / "run", seeds=2)
    assert train(config) == NumbersError.EXIT_STATUS == 65
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: training has ended: {CAUSE.format(0, 12)}; {CAUSE.format(1, 12)}; "
        f"the last good state is {tmp_path}/run/checkpoints/step_000000000005"
    )
    records = RunFolder.open(config.out).read_metrics()
    assert records[-1]["iteration"] == 6 and records[-1]["skipped_in_a_row"] == 12.0
    # the folder is free again, and tells the same
    assert train(fake_config(config.out, seeds=2, resume=True)) == 65
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_a_seed_that_diverges_is_named_once_and_the_others_are_trained_to_their_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "make_programs", lambda config, seeds: Spoilt(seeds))
    config = fake_config(tmp_path / "run", seeds=3)
    assert train(config) == 65
    out, err = capsys.readouterr()
    cause = CAUSE.format(1, 12)
    assert err.splitlines()[-1] == f"error: the run is finished in {config.out}, but not of every seed: {cause}"
    assert out.count(f"warning: {cause}; its policy stays as it was before, the other seeds go on") == 1
    result = json.loads((config.out / "result.json").read_text())
    assert result["diverged_seeds"] == [1] and len(result["final_return"]["per_seed"]) == 3
    train_records = [r for r in RunFolder.open(config.out).read_metrics() if r["kind"] == "train"]
    assert [r["iteration"] for r in train_records if r["seed"] == 1 and r["diverged"]] == [6, 7, 8, 9, 10]
    assert not any(r["diverged"] for r in train_records if r["seed"] != 1) and len(train_records) == 30
    assert train(fake_config(config.out, seeds=3, resume=True)) == 65
    line = f"error: the run is finished in {config.out}, but not of every seed: seed 1 diverged in iteration 6"
    assert capsys.readouterr().err.splitlines()[-1] == line
