"""The interface of a language task: problems with blanks, and a reward computed from tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

MASK = 0
"""The token of a blank; the words of a task are the tokens 1 ... V."""


class Problems(NamedTuple):
    """P problems of one length L."""

    prompt: np.ndarray
    """(P, L) tokens, MASK where the answer goes."""
    answer: np.ndarray
    """(P, L) tokens, the prompt completed correctly; if several completions are correct, one of them."""


class Task(Protocol):
    """A language task, one per file: prompts, reward, and what counts as solved and as well formed.

    `reward`, `solved` and `well_formed` take prompt, answer and action, each (..., L) tokens; they can be compiled and
    batched. All three reject an action that changes a given token or leaves a blank.
    """

    name: str
    length: int
    """L, tokens in a sequence."""
    vocab_size: int
    """V, tokens beside MASK."""
    num_blanks: int
    """The largest number of blanks in a generated prompt."""
    defaults: ClassVar[Mapping[str, Any]]
    """Options of `LanguageConfig`, by dotted name, that have another default on this task."""
    method_defaults: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Name of an objective -> the same for that objective on this task."""

    def problems(self, split: str) -> Problems:
        """The generated problems of `train` or `test`; no problem is in both, and a seed fixes them."""
        ...

    def corpus(self) -> Problems:
        """The data for pretraining: the training prompts, once for each correct answer."""
        ...

    def read(self, path: Path) -> Problems:
        """The problems of a published test file.

        Raises:
          ValueError: naming the first line with another format.
        """
        ...

    def reward(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) in [0, 1]; 1 exactly if solved."""
        ...

    def solved(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) bool: the action is a correct answer."""
        ...

    def well_formed(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) bool: the action has the form of an answer, right or not."""
        ...

    def render(self, tokens: np.ndarray) -> str:
        """A sequence (L,) as text for a terminal; blanks are shown as a dot."""
        ...


def unseen(problems: Problems, train: Problems) -> np.ndarray:
    """(P,) bool: problems of which neither the prompt nor the answer is a training problem's, so that no model trained
    on those was ever shown them."""
    known = [{row.tobytes() for row in np.asarray(rows, np.int32)} for rows in train]
    rows = zip(*(np.asarray(part, np.int32) for part in problems), strict=True)
    return np.array([not any(x.tobytes() in part for x, part in zip(row, known, strict=True)) for row in rows], bool)


def keeps_prompt(prompt, action):
    """(...) bool: every given token is unchanged, and no blank is left."""
    return ((action == prompt) | (prompt == MASK)).all(-1) & (action != MASK).all(-1)


def file_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of the non-empty lines of a test file.

    Raises:
      ValueError: the file cannot be read or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--test-file {path} cannot be read: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"--test-file {path} is empty")
    return numbered
