"""Sudoku of 4 x 4: fill the blanks so that every row, column and 2 x 2 box holds 1, 2, 3 and 4."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.checks import Checked
from dipod_jax.language.task import MASK, Problems, file_lines, keeps_prompt

SIDE = 4
CELLS = SIDE * SIDE
HEADER = "Puzzle,Solution"
# Cells of each row, column and box: (12, 4).
_ROWS = np.arange(CELLS).reshape(SIDE, SIDE)
_BOXES = _ROWS.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(SIDE, SIDE)
UNITS = np.concatenate([_ROWS, _ROWS.T, _BOXES])


@functools.cache
def all_grids() -> np.ndarray:
    """The 288 solved grids, (288, 16) digits 1..4 in reading order; read-only."""
    rows = np.array(list(itertools.permutations(range(1, SIDE + 1))))  # (24, 4)
    pairs = rows[np.array(list(itertools.permutations(range(len(rows)), 2)))].reshape(-1, 2 * SIDE)
    bands = pairs[[all(len(set(unit)) == SIDE for unit in (pair[[0, 1, 4, 5]], pair[[2, 3, 6, 7]])) for pair in pairs]]
    top, bottom = np.divmod(np.arange(len(bands) ** 2), len(bands))
    grids = np.concatenate([bands[top], bands[bottom]], axis=1)
    grids = grids[is_grid(grids)]
    grids.flags.writeable = False
    return grids


def is_grid(tokens: np.ndarray) -> np.ndarray:
    """(...) bool: tokens (..., 16) are a solved grid."""
    return (np.sort(tokens[..., UNITS], axis=-1) == np.arange(1, SIDE + 1)).all((-1, -2))


@dataclass(frozen=True)
class Sudoku:
    """Generated puzzles with one solution each; a fifth of the 288 grids is held out with all their puzzles.

    The 16 tokens stand in reading order and are filled in place. The reward is the share of blanks that are right, so
    that wrong boards can be ranked; it is 0 if a clue was changed.
    """

    blanks: int = 8
    """Blank cells in each generated puzzle, 1 to 12: with fewer than 4 clues no puzzle has a unique solution."""
    puzzles_per_grid: int = 40
    """Puzzles per grid, >= 1; fewer if a grid does not have as many with a unique solution."""
    seed: int = 0
    """Determines the held-out grids and the blanks."""

    name = "sudoku"
    length = CELLS
    vocab_size = SIDE
    # Accuracy rises from 0 to 1 between steps 70 and 150 of pretraining, which stops where greedy decoding solves .3.
    defaults: ClassVar[Mapping[str, Any]] = {}
    # The weight of ESPO's KL in its own recipe (arXiv 2512.03759), .01, times the 8 blanks L: its D^2 / (2 L) is of
    # a D that is not divided by L.
    method_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "spg": {"objective.eubo_order": 1.0},
        "espo": {"objective.kl_weight": 0.08},
    }

    def __post_init__(self):
        check = Checked(self, "problems")
        check.number("blanks", low=1, high=CELLS - SIDE)
        check.number("puzzles_per_grid", low=1)
        check.number("seed")

    @property
    def num_blanks(self) -> int:
        return self.blanks

    def problems(self, split: str) -> Problems:
        """Puzzles of `train` (231 grids) or `test` (57 grids): with the defaults 9,240 and 2,280."""
        return _generate(self)[("train", "test").index(split)]

    def corpus(self) -> Problems:
        """The training puzzles: each has one answer."""
        return self.problems("train")

    def read(self, path: Path) -> Problems:
        """`Puzzle,Solution`, 16 digits each, 0 for a blank (the 4 x 4 files of d1 and SPG)."""
        (number, header), *rows = file_lines(path)
        if header != HEADER or not rows:
            raise ValueError(f"--test-file {path} line {number}: expected the header {HEADER!r} and then puzzles")
        pairs = [_parse_row(path, number, row) for number, row in rows]
        return Problems(*(np.array(tokens, np.int32) for tokens in zip(*pairs, strict=True)))

    def reward(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """Share of the blanks that hold the answer's digit."""
        blank = prompt == MASK
        right = jnp.sum(blank & (action == answer), -1) / jnp.maximum(jnp.sum(blank, -1), 1)
        return jnp.where(keeps_prompt(prompt, action), right, 0.0)

    def solved(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """The board is the solution."""
        return (action == answer).all(-1) & keeps_prompt(prompt, action)

    def well_formed(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """Every row, column and box holds each digit once, and the clues stand: for a puzzle with one solution, that
        is solved."""
        boxes = jnp.sort(jnp.asarray(action)[..., UNITS], axis=-1) == jnp.arange(1, SIDE + 1)
        return boxes.all((-1, -2)) & keeps_prompt(prompt, action)

    def render(self, tokens: np.ndarray) -> str:
        """Four lines of two pairs of digits."""
        cells = ["." if token == MASK else str(token) for token in np.asarray(tokens).tolist()]
        lines = [" ".join(cells[4 * r : 4 * r + 2]) + "  " + " ".join(cells[4 * r + 2 : 4 * r + 4]) for r in range(4)]
        return "\n".join(lines)


@functools.cache
def _generate(task: Sudoku) -> tuple[Problems, Problems]:
    """Training and held-out puzzles."""
    rng = np.random.default_rng(task.seed)
    grids = all_grids()
    order = rng.permutation(len(grids))
    num_test = len(grids) // 5
    chosen = np.array(list(itertools.combinations(range(CELLS), task.blanks)))
    blanks = (chosen[..., None] == np.arange(CELLS)).any(1)  # (M, 16) bool, every choice of blanks
    made = {index: _puzzles(grids[index], blanks, task.puzzles_per_grid, rng) for index in order}
    parts = []
    for members in (order[num_test:], order[:num_test]):
        prompt = np.concatenate([made[index] for index in members])
        answer = np.repeat(grids[members], [len(made[index]) for index in members], axis=0)
        parts.append(Problems(prompt.astype(np.int32), answer.astype(np.int32)))
    return parts[0], parts[1]


def _puzzles(grid: np.ndarray, blanks: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` different puzzles of `grid` (16,) with one solution, blanked by rows of `blanks` (M, 16)."""
    others = all_grids()
    differs = (others != grid)[(others != grid).any(1)].astype(np.float32)  # (287, 16)
    found = np.zeros((0, CELLS), np.int64)
    for part in np.array_split(rng.permutation(len(blanks)), max(1, len(blanks) // (8 * count))):
        unique = ((~blanks[part]).astype(np.float32) @ differs.T > 0).all(1)  # every other grid contradicts a clue
        found = np.concatenate([found, np.where(blanks[part][unique], MASK, grid)])
        if len(found) >= count:
            break
    return found[:count]


def _parse_row(path: Path, number: int, row: str) -> tuple[list[int], list[int]]:
    """One line of a test file as puzzle and solution."""
    where = f"--test-file {path} line {number}"
    fields = row.split(",")
    if len(fields) != 2 or any(len(f) != CELLS or set(f) - set("01234") for f in fields):
        raise ValueError(f"{where}: expected two fields of 16 digits from 0 to 4, got {row[:60]!r}")
    puzzle, solution = ([int(digit) for digit in field] for field in fields)
    if not is_grid(np.array(solution)):
        raise ValueError(f"{where}: {fields[1]} is not a solved 4 x 4 grid")
    if any(p not in (MASK, s) for p, s in zip(puzzle, solution, strict=True)) or MASK not in puzzle:
        raise ValueError(f"{where}: {fields[1]} does not fill the blanks of {fields[0]}")
    return puzzle, solution
