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
