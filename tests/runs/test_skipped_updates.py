"""A run whose updates are all skipped ends, and says why."""

import numpy as np
import pytest
from fake_run import FakePrograms, fake_config

from dipod_jax.cli import run_cli
from dipod_jax.runs import NumbersError, RunFolder
from dipod_jax.training import loop


class Spoilt(FakePrograms):
    """From the fourth iteration on every update is skipped, four an iteration."""

    def learn(self, learner, transitions):
        learner, metrics = super().learn(learner, transitions)
        skipped = 4.0 * np.maximum(np.asarray(learner.iteration) - 3, 0)
        return learner, metrics | {"skipped_in_a_row": np.where(np.arange(len(skipped)) == 1, skipped, 0.0)}


def test_ten_skipped_updates_in_a_row_end_the_run_in_one_line_and_keep_its_last_checkpoint(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "make_programs", lambda config, seeds: Spoilt(seeds))
    config = fake_config(tmp_path / "run", seeds=2)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda _: config, lambda config: loop.train(config) and None, [])
    assert ended.value.code == NumbersError.EXIT_STATUS == 65
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (
        "error: training has ended: seed 1: the last 12 updates were skipped, as their gradients are not finite over a "
        "finite rollout: policy or critic has run away; a lower --learning.learning-rate may hold them; the last good "
        f"state is {tmp_path}/run/checkpoints/step_000000000005"
    )
    records = RunFolder.open(config.out).read_metrics()
    assert records[-1]["iteration"] == 6 and records[-1]["skipped_in_a_row"] == 12.0
    with pytest.raises(SystemExit):  # the folder is free again, and tells the same
        run_cli(lambda _: fake_config(config.out, seeds=2, resume=True), lambda c: loop.train(c) and None, [])
    assert capsys.readouterr().err.splitlines()[-1] == line
