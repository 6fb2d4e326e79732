"""The contraction study: what theory expects of an arm, and what its rows and its picture say."""

import pytest
from PIL import Image

from dipod_jax.bounds import time_grid
from dipod_jax.diagnostics import synthetic
from dipod_jax.studies.contraction.distillation import expected_ratio
from dipod_jax.studies.contraction.options import ARMS, TARGETS, Arm, Config
from dipod_jax.studies.contraction.results import plot, row

RECORD = {
    "name": "euler-10",
    "own_pairs": False,
    "std": [0.25, 0.2, 0.1],
    "ratio": 0.4,
    "theory": 0.39,
    "gap_before": 0.1,
    "gap_after": 0.2,
}


@pytest.mark.parametrize(("std", "kept"), [(0.05, 0.877), (0.3, 0.970), (1.0, 0.980)])
def test_one_round_through_64_euler_steps_is_expected_to_keep_the_known_share(std, kept):
    assert expected_ratio(Arm("a", "euler", 64), time_grid(64, kind="uniform"), std, rounds=1) == pytest.approx(
        kept, abs=6e-4
    )


def test_rounds_are_expected_to_multiply():
    arm, times = Arm("a", "euler", 10), time_grid(10, kind="uniform")
    first = expected_ratio(arm, times, 0.3, rounds=1)
    second = expected_ratio(arm, times, 0.3 * first, rounds=1)
    assert expected_ratio(arm, times, 0.3, rounds=2) == pytest.approx(first * second, rel=1e-5)


def test_a_policys_own_pairs_are_expected_to_keep_everything():
    assert expected_ratio(ARMS[-1], time_grid(10, kind="uniform"), 0.3, rounds=50) == 1.0


def test_the_options_name_the_targets_there_are_and_every_arm_once():
    assert TARGETS == synthetic.TARGETS
    assert len({arm.name for arm in ARMS}) == len(ARMS) == len(Config().arms)
    assert [arm.name for arm in Config(arms=("heun-10", "euler-10")).chosen_arms] == ["euler-10", "heun-10"]


def test_a_row_says_what_was_kept():
    assert row(RECORD)["ratio"] == "0.400 (lost)" and row(RECORD | {"ratio": 0.96})["ratio"] == "0.960 (kept)"


def test_the_picture_shows_every_arm(tmp_path):
    plot([RECORD, RECORD | {"name": "own", "own_pairs": True}], tmp_path / "contraction.png")
    assert Image.open(tmp_path / "contraction.png").size == (1200, 720)
