"""The papers' own test files, read whole. They are not part of the project: these tests need them beside it."""

from pathlib import Path

import numpy as np
import pytest

from dipod_jax.language import MASK, Countdown, Sudoku

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def published(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"needs the published test set {name} in ../shared/data, beside the project")
    return DATA / name


@pytest.mark.parametrize(
    ("name", "count", "blanks"),
    [("4x4_test_sudoku.csv", 500, (8, 8)), ("test_sudoku_split_new.csv", 256, (7, 12))],
)
def test_every_published_sudoku_is_read_and_solved_by_its_answer_alone(name, count, blanks):
    task = Sudoku()
    problems = task.read(published(name))
    assert problems.prompt.shape == problems.answer.shape == (count, 16)
    number = (problems.prompt == MASK).sum(1)
    assert (number.min(), number.max()) == blanks
    assert np.asarray(task.solved(*problems, problems.answer)).all()
    assert np.asarray(task.reward(*problems, problems.answer) == 1.0).all()
    wrong = np.where(problems.prompt == MASK, problems.answer % 4 + 1, problems.answer)
    assert (np.asarray(task.reward(*problems, wrong)) == 0.0).all()


def test_every_published_countdown_is_read_and_solved_where_it_has_an_answer():
    task = Countdown(max_number=100, max_target=100, operators="+-*/")
    problems = task.read(published("countdown_cd3_test.jsonl"))
    assert problems.prompt.shape == (256, 9)
    has_answer = (problems.answer != MASK).all(1)
    np.testing.assert_array_equal(np.asarray(task.solved(*problems, problems.answer)), has_answer)
    assert has_answer.sum() == 250  # the rest need brackets


def test_a_published_countdown_with_numbers_beyond_the_tasks_is_refused_with_its_line():
    with pytest.raises(ValueError, match=r"line 1: numbers 30 to 100, allowed 1 to --problems.max-number 15"):
        Countdown().read(published("countdown_cd3_test.jsonl"))
