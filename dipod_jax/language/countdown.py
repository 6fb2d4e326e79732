"""Countdown with 3 numbers: reach a target by an expression that uses each number once."""

from __future__ import annotations

import functools
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.checks import Checked
from dipod_jax.language.task import MASK, Problems, file_lines, keeps_prompt

NUMBERS = 3
OPERATORS = "+-*/"
WELL_FORMED_REWARD = 0.1
LARGEST_NUMBER = 1000  # numerators and denominators of an expression stay within int32


@dataclass(frozen=True)
class Countdown:
    """All problems of 3 numbers 1..max_number (in rising order, repeats allowed) and a target that can be reached.

    A sequence is `n n n target | n op n op n`, 9 tokens of which the last 5 are blank; the expression is evaluated
    from left to right, without precedence, in exact rational arithmetic. Numbers and targets are different words, so a
    target is no number to calculate with. With the defaults 6,810 problems, a fifth of them held out.
    """

    max_number: int = 15
    """Largest number given, 2 to 1000; a test file may need more than the default."""
    max_target: int = 99
    """Largest target, >= 1; the smallest is 1."""
    operators: str = "+-*"
    """Which of + - * / may be used, at least one."""
    seed: int = 0
    """Chooses the problems that are held out."""

    name = "countdown"
    length = NUMBERS + 1 + 2 * NUMBERS - 1
    num_blanks = 2 * NUMBERS - 1

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


def expressions(numbers: tuple[int, ...], operators: str) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Every expression over an order of `numbers`: (numbers in order, operator indices, value), whole values only."""
    found = []
    for order in sorted(set(itertools.permutations(numbers))):
        for chosen in itertools.product(range(len(operators)), repeat=len(numbers) - 1):
            numerator, denominator = order[0], 1
            for index, number in zip(chosen, order[1:], strict=True):
                numerator, denominator = _apply(operators[index], numerator, denominator, number)
            if numerator % denominator == 0:
                found.append((order, chosen, numerator // denominator))
    return found


@functools.cache
def _generate(task: Countdown) -> tuple[Problems, Problems, Problems]:
    """Training problems, held-out problems, and the training problems with all their answers."""
    solutions: dict[tuple[int, ...], list[np.ndarray]] = {}
    for numbers in itertools.combinations_with_replacement(range(1, task.max_number + 1), NUMBERS):
        for order, chosen, value in expressions(numbers, task.operators):
            if 1 <= value <= task.max_target:
                solutions.setdefault((*numbers, value), []).append(_sequence(task, numbers, value, order, chosen))
    keys = list(solutions)
    order = np.random.default_rng(task.seed).permutation(len(keys))
    num_test = len(keys) // 5
    test = [solutions[keys[i]][:1] for i in order[:num_test]]
    train = [solutions[keys[i]] for i in order[num_test:]]
    return _problems([s[:1] for s in train]), _problems(test), _problems(train)


def _sequence(task: Countdown, numbers, target, order, chosen) -> np.ndarray:
    """Tokens of a problem and one expression."""
    first = task.max_number + task.max_target + 1
    expression = [order[0]]
    for index, number in zip(chosen, order[1:], strict=True):
        expression += [first + index, number]
    return np.array([*numbers, task.max_number + target, *expression], np.int32)


def _problems(groups: list[list[np.ndarray]]) -> Problems:
    answer = np.array([sequence for group in groups for sequence in group], np.int32)
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
    right = [e for e in expressions(numbers, task.operators) if e[2] == target]
    return prompt, _sequence(task, numbers, target, *right[0][:2]) if right else prompt


def _digits(word: str) -> int:
    """The number that a word of at most nine digits 0..9 says; `int` would take others' digits, `1_0` and `2.5` too."""
    if not re.fullmatch("[0-9]{1,9}", word.strip(" ")):
        raise ValueError(word)
    return int(word)
