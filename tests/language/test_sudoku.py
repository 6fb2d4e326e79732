"""Sudoku: what is generated, what is rewarded, what is read."""

import itertools

import numpy as np
import pytest

from dipod_jax.language import MASK, Sudoku
from dipod_jax.language.sudoku import _generate, all_grids


def num_solutions(puzzle: np.ndarray) -> int:
    """By filling blanks one after another: no list of grids, no code of the task."""
    blanks = np.flatnonzero(puzzle == MASK)
    if len(blanks) == 0:
        return 1
    cell = int(blanks[0])
    row, column = divmod(cell, 4)
    seen = {
        puzzle[c]
        for c in range(16)
        if c // 4 == row or c % 4 == column or (c // 8, c % 4 // 2) == (cell // 8, cell % 4 // 2)
    }
    total = 0
    for digit in {1, 2, 3, 4} - seen:
        filled = puzzle.copy()
        filled[cell] = digit
        total += num_solutions(filled)
    return total


def test_there_are_288_grids_and_the_empty_board_has_as_many_solutions():
    assert all_grids().shape == (288, 16)
    assert len({tuple(grid) for grid in all_grids()}) == 288
    assert num_solutions(np.zeros(16, int)) == 288


@pytest.mark.parametrize("blanks", [8, 10, 12])
def test_generated_puzzles_have_that_many_blanks_and_one_solution(blanks):
    problems = Sudoku(blanks=blanks, puzzles_per_grid=1).problems("test")
    assert ((problems.prompt == MASK).sum(1) == blanks).all()
    assert all(num_solutions(puzzle) == 1 for puzzle in problems.prompt)
    assert (np.where(problems.prompt == MASK, problems.answer, problems.prompt) == problems.answer).all()


def test_a_fifth_of_the_grids_is_held_out_with_all_its_puzzles():
    train, test = (Sudoku().problems(split) for split in ("train", "test"))
    assert (len(train.prompt), len(test.prompt)) == (9240, 2280)
    grids = [{tuple(a) for a in part.answer} for part in (train, test)]
    assert (len(grids[0]), len(grids[1]), len(grids[0] & grids[1])) == (231, 57, 0)
    assert len({tuple(p) for p in train.prompt}) == 9240


def test_the_seed_fixes_the_puzzles():
    generate = lambda seed: _generate.__wrapped__(Sudoku(blanks=2, puzzles_per_grid=1, seed=seed))[1].prompt
    np.testing.assert_array_equal(generate(3), generate(3))
    assert (generate(3) != generate(4)).any()


def test_reward_is_the_share_of_blanks_right_and_1_only_where_solved():
    task = Sudoku()
    prompt, answer = (part[0] for part in task.problems("test"))
    blanks = np.flatnonzero(prompt == MASK)
    assert task.reward(prompt, answer, answer) == 1.0 and task.solved(prompt, answer, answer)
    for wrong in range(1, 9):
        action = answer.copy()
        action[blanks[:wrong]] = action[blanks[:wrong]] % 4 + 1
        assert task.reward(prompt, answer, action) == pytest.approx(1 - wrong / 8)
        assert not task.solved(prompt, answer, action)
        assert not task.well_formed(prompt, answer, action)


def test_no_board_with_a_changed_clue_or_a_blank_left_earns_anything():
    task = Sudoku()
    prompt, answer = (part[0] for part in task.problems("test"))
    clues, blanks = np.flatnonzero(prompt != MASK), np.flatnonzero(prompt == MASK)
    cheats = [(cell, token) for cell, token in itertools.product(clues, range(5)) if token != answer[cell]]
    cheats += [(cell, MASK) for cell in blanks]
    for cell, token in cheats:
        action = answer.copy()
        action[cell] = token
        assert task.reward(prompt, answer, action) == 0.0
        assert not task.solved(prompt, answer, action)
        assert not task.well_formed(prompt, answer, action)


def test_another_valid_grid_earns_no_more_than_the_cells_it_shares():
    task = Sudoku()
    prompt, answer = (part[0] for part in task.problems("test"))
    for grid in all_grids()[(all_grids() != answer).any(1)]:
        assert task.reward(prompt, answer, grid) == 0.0  # one solution: every other grid contradicts a clue


def test_a_published_file_is_read(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text("Puzzle,Solution\r\n3102200002100320,3142243142131324\r\n0140432014020000,2143432114323214\r\n")
    problems = Sudoku().read(path)
    assert problems.prompt.shape == (2, 16)
    assert Sudoku().render(problems.prompt[0]) == "3 1  . 2\n2 .  . .\n. 2  1 .\n. 3  2 ."
    assert Sudoku().solved(*problems, problems.answer).all()


@pytest.mark.parametrize(
    "line, message",
    [
        ("310220000210032,3142243142131324", "line 3: expected two fields of 16 digits from 0 to 4"),
        ("3102200002100320,3142243142131324,1", "line 3: expected two fields of 16 digits from 0 to 4"),
        ("3102200002100325,3142243142131324", "line 3: expected two fields of 16 digits from 0 to 4"),
        ("3102200002100320,3142243142131322", "line 3: 3142243142131322 is not a solved 4 x 4 grid"),
        ("1102200002100320,3142243142131324", "line 3: 3142243142131324 does not fill the blanks of 1102200002100320"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, line, message):
    path = tmp_path / "puzzles.csv"
    path.write_text(f"Puzzle,Solution\n3102200002100320,3142243142131324\n{line}\n")
    with pytest.raises(ValueError, match=message):
        Sudoku().read(path)


@pytest.mark.parametrize("text, message", [("", "is empty"), ("a,b\n", "line 1: expected the header")])
def test_a_file_without_puzzles_is_refused(tmp_path, text, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Sudoku().read(tmp_path / "f.csv")


@pytest.mark.parametrize("blanks", [0, 13])
def test_blanks_without_a_puzzle_of_one_solution_are_refused(blanks):
    with pytest.raises(ValueError, match=r"--problems\.blanks"):
        Sudoku(blanks=blanks)
