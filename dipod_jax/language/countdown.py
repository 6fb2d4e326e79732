"""Countdown with 3 numbers: reach a target by an expression that uses each number once."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.checks import Checked
from dipod_jax.language.task import MASK, Problems, file_lines, keeps_prompt

NUMBERS = 3
OPERATORS = "+-*/"
WELL_FORMED_REWARD = 0.1
LARGEST_NUMBER = 100  # d1's; of numbers up to it and all operators there are 600,000 problems
FEWEST_PROBLEMS = 5  # of which a fifth is held out


@dataclass(frozen=True)
class Countdown:
    """All problems of 3 numbers 1..max_number (in rising order, repeats allowed) and a target that can be reached.

    A sequence is `n n n target | n op n op n`, 9 tokens of which the last 5 are blank; the expression is evaluated
    from left to right, without precedence, in exact rational arithmetic. Numbers and targets are different words, so a
    target is no number to calculate with. With the defaults 6,810 problems, a fifth of them held out.
    """

    max_number: int = 15
    """Largest number given, 2 to 100; a test file may need more than the default."""
    max_target: int = 99
    """Largest target, 1 to 100; the smallest is 1."""
    operators: str = "+-*"
    """Which of + - * / may be used, at least one."""
    seed: int = 0
    """Chooses the problems that are held out."""

    name = "countdown"
    length = NUMBERS + 1 + 2 * NUMBERS - 1
    num_blanks = 2 * NUMBERS - 1
    # Pretraining stops where greedy decoding solves a quarter.
    defaults: ClassVar[Mapping[str, Any]] = {
        "pretraining.steps": 1950,
        "pretraining.batch_size": 256,
        "pretraining.learning_rate": 2e-3,
        "pretraining.decay_steps": 3000,
        "learning.num_iterations": 100,
        "learning.learning_rate": 1e-4,
    }
    # As on Sudoku, of .003 and 5 blanks.
    method_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"espo": {"objective.kl_weight": 0.015}}

    def __post_init__(self):
        check = Checked(self, "problems")
        check.number("max_number", low=2, high=LARGEST_NUMBER)
        check.number("max_target", low=1, high=LARGEST_NUMBER)
        check.number("seed")
        known = 0 < len(set(self.operators)) == len(self.operators) and not set(self.operators) - set(OPERATORS)
        check.require(known, "operators", f"one or more of {OPERATORS}, each once")

    @property
    def vocab_size(self) -> int:
        return self.max_number + self.max_target + len(self.operators)

    def problems(self, split: str) -> Problems:
        """Problems of `train` or `test`: with the defaults 5,448 and 1,362."""
        return _generate(self)[("train", "test").index(split)]

    def corpus(self) -> Problems:
        """Every training problem with every expression that solves it."""
        return _generate(self)[2]

    def read(self, path: Path) -> Problems:
        """One JSON object a line, `{"input": "30,100,93", "output": "23"}`: three numbers and a target (d1's file).

        A problem that no expression of these operators solves stays in, with its answer left blank.
        """
        pairs = [_parse_line(self, path, number, line) for number, line in file_lines(path)]
        return Problems(*(np.array(tokens, np.int32) for tokens in zip(*pairs, strict=True)))

    def reward(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """1 if solved, 0.1 if well formed, else 0."""
        form = jnp.where(self.well_formed(prompt, answer, action), WELL_FORMED_REWARD, 0.0)
        return jnp.where(self.solved(prompt, answer, action), 1.0, form)

    def solved(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """Well formed, and equal to the target; any such expression is right, `answer` is not read."""
        numerator, denominator = self._value(action)
        target = prompt[..., NUMBERS] - self.max_number
        return self.well_formed(prompt, answer, action) & (numerator == target * denominator)

    def well_formed(self, prompt: jax.Array, answer: jax.Array, action: jax.Array) -> jax.Array:
        """Number, operator, number, operator, number, with each given number used once."""
        del answer
        expression = jnp.asarray(action)[..., NUMBERS + 1 :]
        operator = expression[..., 1::2] - (self.max_number + self.max_target)  # 1 ... len(operators)
        operators_stand = ((operator >= 1) & (operator <= len(self.operators))).all(-1)
        used = jnp.sort(expression[..., 0::2], axis=-1) == jnp.sort(jnp.asarray(prompt)[..., :NUMBERS], axis=-1)
        return used.all(-1) & operators_stand & keeps_prompt(prompt, action)

    def _value(self, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Numerator and denominator of the expression; without meaning where it is not well formed."""
        expression = jnp.asarray(action)[..., NUMBERS + 1 :]
        number = jnp.clip(expression[..., 0::2], 1, self.max_number)
        operator = expression[..., 1::2] - (self.max_number + self.max_target + 1)
        value = number[..., 0], jnp.ones_like(number[..., 0])
        for k in range(NUMBERS - 1):
            chosen = [operator[..., k] == index for index in range(len(self.operators))]
            results = [_apply(symbol, *value, number[..., k + 1]) for symbol in self.operators]
            numerators, denominators = zip(*results, strict=True)
            value = jnp.select(chosen, numerators, value[0]), jnp.select(chosen, denominators, value[1])
        return value

    def render(self, tokens: np.ndarray) -> str:
        """`3 5 7 -> 22: 3 * 5 + 7`, evaluated from left to right."""
        words = [self._word(int(token)) for token in tokens]
        return f"{' '.join(words[:NUMBERS])} -> {words[NUMBERS]}: {' '.join(words[NUMBERS + 1 :])}"

    def _word(self, token: int) -> str:
        if token == MASK:
            return "."
        if token <= self.max_number:
            return str(token)
        if token <= self.max_number + self.max_target:
            return str(token - self.max_number)
        return self.operators[token - self.max_number - self.max_target - 1]


def _apply(symbol, numerator, denominator, number):
    """(numerator / denominator) symbol number, as numerator and denominator."""
    if symbol == "+":
        return numerator + number * denominator, denominator
    if symbol == "-":
        return numerator - number * denominator, denominator
    if symbol == "*":
        return numerator * number, denominator
    return numerator, denominator * number


def solutions(task: Countdown, numbers: np.ndarray) -> np.ndarray:
    """Every expression over an order of each row of `numbers` (M, 3), in rising order, that has a whole value from 1 to
    the largest target: sequences (K, 9), sorted by the given numbers, then their order, then the operators."""
    found = []
    first = task.max_number + task.max_target + 1
    for order in itertools.permutations(range(NUMBERS)):
        given = numbers[:, order]
        for chosen in itertools.product(range(len(task.operators)), repeat=NUMBERS - 1):
            numerator, denominator = given[:, 0], np.ones(len(given), np.int64)
            for index, number in zip(chosen, given.T[1:], strict=True):
                numerator, denominator = _apply(task.operators[index], numerator, denominator, number)
            value, rest = np.divmod(numerator, denominator)
            (right,) = np.nonzero((rest == 0) & (value >= 1) & (value <= task.max_target))
            sequence = np.empty((len(right), task.length), np.int32)
            sequence[:, :NUMBERS], sequence[:, NUMBERS] = numbers[right], task.max_number + value[right]
            sequence[:, NUMBERS + 1 :: 2], sequence[:, NUMBERS + 2 :: 2] = given[right], np.array(chosen) + first
            found.append(sequence)
    tokens = np.concatenate(found)
    columns = [*range(NUMBERS), *range(NUMBERS + 1, task.length, 2), *range(NUMBERS + 2, task.length, 2)]
    tokens = tokens[np.lexsort(tokens.T[columns[::-1]])]
    repeated = (tokens[1:] == tokens[:-1]).all(1)  # by an order that differs in equal numbers alone
    return np.delete(tokens, np.flatnonzero(repeated) + 1, axis=0)


@functools.cache
def _generate(task: Countdown) -> tuple[Problems, Problems, Problems]:
    """Training problems, held-out problems, and the training problems with all their answers."""
    numbers = np.array(list(itertools.combinations_with_replacement(range(1, task.max_number + 1), NUMBERS)))
    answers = solutions(task, numbers)
    # A problem is its numbers and its target; problems are numbered in the order in which they are found.
    _, first, problem = np.unique(answers[:, : NUMBERS + 1], axis=0, return_index=True, return_inverse=True)
    if len(first) < FEWEST_PROBLEMS:
        raise ValueError(
            f"--problems.max-number {task.max_number} is not allowed: there must be {FEWEST_PROBLEMS} problems, and "
            f"there are {len(first)} with --problems.max-target {task.max_target} and --problems.operators "
            f"{task.operators}"
        )
    place = np.argsort(np.argsort(first))[problem.reshape(-1)]  # (K,) of an answer's problem
    groups = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])  # a problem's answers
    order = np.random.default_rng(task.seed).permutation(len(groups))
    num_test = len(groups) // 5
    test, train = ([groups[i] for i in part] for part in (order[:num_test], order[num_test:]))
    one = lambda part: _problems(answers[[group[0] for group in part]])
    return one(train), one(test), _problems(answers[np.concatenate(train)])


def _problems(answer: np.ndarray) -> Problems:
    prompt = answer.copy()
    prompt[:, NUMBERS + 1 :] = MASK
    return Problems(prompt, answer)


def _parse_line(task: Countdown, path: Path, number: int, line: str) -> tuple[np.ndarray, np.ndarray]:
    """One line of a test file as prompt and answer."""
    where = f"--test-file {path} line {number}"
    try:
        record = json.loads(line)
        numbers = tuple(sorted(_digits(word) for word in record["input"].split(",")))
        target = _digits(record["output"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        form = '{"input": "30,100,93", "output": "23"}'
        raise ValueError(f"{where}: expected an object like {form}, got {line[:60]!r}") from None
    if len(numbers) != NUMBERS:
        raise ValueError(f"{where}: expected {NUMBERS} numbers, got {len(numbers)}")
    if not 1 <= numbers[0] <= numbers[-1] <= task.max_number:
        raise ValueError(
            f"{where}: numbers {numbers[0]} to {numbers[-1]}, allowed 1 to --problems.max-number {task.max_number}"
        )
    if not 1 <= target <= task.max_target:
        raise ValueError(f"{where}: target {target}, allowed 1 to --problems.max-target {task.max_target}")
    prompt = np.array([*numbers, task.max_number + target] + [MASK] * (2 * NUMBERS - 1), np.int32)
    found = solutions(task, np.array([numbers]))
    right = found[found[:, NUMBERS] == prompt[NUMBERS]]
    return prompt, right[0] if len(right) else prompt


def _digits(word: str) -> int:
    """The number that a word of at most nine digits 0..9 says; `int` would take others' digits, `1_0` and `2.5` too."""
    if not re.fullmatch("[0-9]{1,9}", word.strip(" ")):
        raise ValueError(word)
    return int(word)
