"""The recipe on a real task: minutes, so `make test-all` only."""

import pytest

from dipod_jax.commands.train import main
from dipod_jax.runs import RunFolder


@pytest.mark.slow
def test_the_cpu_recipe_catches_the_ball_with_a_tight_bound(tmp_path):
    """In 1M of its 1.5M env steps: seed 9, which no choice of the recipe has seen, reaches 900."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")
        options = ["--preset", "cpu", "--backend", "native", "--seed-list", "9", "--total-steps", "1000000"]
        main([*options, "--logger", "none", "--out", str(out)], task="BallInCup")
    folder = RunFolder.open(out)
    assert folder.read_result()["evaluation_return"]["best"][0] > 900
    drift = [r for r in folder.read_metrics() if r["kind"] == "drift"]
    assert drift[-1]["drift/gap_median"] < 2 * drift[0]["drift/gap_median"]


@pytest.mark.slow
def test_the_critic_keeps_up_with_its_own_targets_where_every_step_has_a_reward(tmp_path):
    """Seeds 201 to 203 with beta_2 .999: an error of 3e6 to 2e7 after two iterations, of values that cannot be over
    1000. Measured with .9: 4e3 at most."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")
        options = ["--preset", "cpu", "--backend", "native", "--seed-list", "201", "--total-steps", "131072"]
        lean = ["--learning.final-learning-rate", "1e-3", "--evaluation.num-episodes-during", "4"]
        lean += ["--evaluation.num-episodes", "4", "--drift.interval", "0"]
        main([*options, *lean, "--logger", "none", "--out", str(out)], task="CartpoleBalanceSparse")
    errors = [r["value_loss"] for r in RunFolder.open(out).read_metrics() if r["kind"] == "train"]
    assert len(errors) == 4 and max(errors) < 1e5 and errors[-1] < 1e3
