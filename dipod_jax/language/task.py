"""What a language task is: problems with blanks, and a reward that reads nothing but tokens."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

MASK = 0
"""The token of a blank; the words of a task are the tokens 1 ... V."""


class Problems(NamedTuple):
    """P problems of one length L."""

    prompt: np.ndarray
    """(P, L) tokens, MASK where the answer goes."""
    answer: np.ndarray
    """(P, L) tokens, the prompt completed rightly; where several completions are right, one of them."""


class Task(Protocol):
    """One file each: its prompts, its reward, and what solved and well formed mean.

    `reward`, `solved` and `well_formed` take prompt, answer and action, each (..., L) tokens; they can be compiled and
    batched. All three refuse an action that changes a given token or leaves a blank.
    """

    name: str
    length: int
    """L, tokens in a sequence."""
    vocab_size: int
    """V, tokens beside MASK."""
    num_blanks: int
    """The most blanks that a generated prompt has."""

    def problems(self, split: str) -> Problems:
        """The generated problems of `train` or `test`; no problem is in both, and a seed fixes them."""
        ...

    def corpus(self) -> Problems:
        """What pretraining imitates: the training prompts, once for each right answer."""
        ...

    def read(self, path: Path) -> Problems:
        """The problems of a published test file.

        Raises:
          ValueError: naming the first line that has another form.
        """
        ...

    def reward(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) in [0, 1]; 1 exactly where solved."""
        ...

    def solved(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) bool: the action is right."""
        ...

    def well_formed(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """(...) bool: the action has the form of an answer, right or not."""
        ...

    def render(self, tokens: np.ndarray) -> str:
        """A sequence (L,) as text for a terminal; blanks are shown as a dot."""
        ...


def keeps_prompt(prompt, action):
    """(...) bool: every given token stands where it stood, and no blank is left."""
    return ((action == prompt) | (prompt == MASK)).all(-1) & (action != MASK).all(-1)


def file_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of the lines of a test file that hold something.

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
