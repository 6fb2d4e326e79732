"""Countdown: what is generated, what is rewarded, what is read."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from dipod_jax.language import MASK, Countdown


def evaluate(words: list[str]) -> Fraction:
    """The expression from left to right, in Python's own fractions."""
    value = Fraction(words[0])
    for symbol, number in zip(words[1::2], words[2::2], strict=True):
        value = {
            "+": value + int(number),
            "-": value - int(number),
            "*": value * int(number),
            "/": value / int(number),
        }[symbol]
    return value


def test_there_are_6810_problems_and_a_fifth_is_held_out():
    train, test = (Countdown().problems(split) for split in ("train", "test"))
    assert (len(train.prompt), len(test.prompt)) == (5448, 1362)
    assert len({tuple(p) for part in (train, test) for p in part.prompt}) == 6810
    assert Countdown().vocab_size + 1 == 118  # with the mask


def test_every_listed_answer_reaches_its_target_with_each_number_once():
    task = Countdown()
    for sequence in task.corpus().answer[::97]:
        left, expression = task.render(sequence).split(": ")
        numbers, target = left.split(" -> ")
        words = expression.split()
        assert sorted(words[0::2], key=int) == numbers.split()
        assert evaluate(words) == int(target)


def test_training_answers_are_of_training_problems_and_no_held_out_one():
    task = Countdown()
    corpus = {tuple(p) for p in task.corpus().prompt}
    assert corpus == {tuple(p) for p in task.problems("train").prompt}
    assert not corpus & {tuple(p) for p in task.problems("test").prompt}


@pytest.mark.slow
def test_reward_of_every_possible_expression_agrees_with_fractions():
    """All 6^3 * 4^2 fillings by numbers and operators of one small problem, then every single foreign word."""
    task = Countdown(max_number=6, max_target=12, operators="+-*/")
    prompt = np.array([2, 3, 6, 6 + 4, *[MASK] * 5])  # 2 3 6 -> 4: 6 / 3 + 2, ...
    first = 6 + 12 + 1
    fillings = itertools.product(range(1, 7), range(4), range(1, 7), range(4), range(1, 7))
    actions = np.array([[*prompt[:4], a, first + p, b, first + q, c] for a, p, b, q, c in fillings])
    rewards = np.asarray(task.reward(prompt, prompt, actions))
    expected = []
    for action in actions:
        words = task.render(action).split(": ")[1].split()
        used = sorted(words[0::2]) == ["2", "3", "6"]
        expected.append((1.0 if evaluate(words) == 4 else 0.1) if used else 0.0)
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)
    assert {1.0, 0.1, 0.0} <= set(expected)

    solved = actions[np.argmax(rewards)]
    for position, token in itertools.product(range(9), range(task.vocab_size + 1)):
        cheat = solved.copy()
        cheat[position] = token
        is_operator = position in (5, 7) and token >= first
        if token != solved[position] and not is_operator:
            assert task.reward(prompt, prompt, cheat) == 0.0


@pytest.mark.parametrize("operators", ["+-*/", "-", "/*"])
def test_the_training_answers_are_all_that_a_search_finds_each_once(operators):
    task = Countdown(max_number=6, max_target=9, operators=operators)
    expected = []
    for numbers in itertools.combinations_with_replacement(range(1, 7), 3):
        for order in sorted(set(itertools.permutations(numbers))):
            for first, second in itertools.product(operators, repeat=2):
                words = [str(order[0]), first, str(order[1]), second, str(order[2])]
                if (value := evaluate(words)).denominator == 1 and 1 <= value <= 9:
                    expected.append(f"{' '.join(map(str, numbers))} -> {value}: {' '.join(words)}")
    problem = lambda text: text.partition(":")[0]
    train, test, corpus = (
        [task.render(s) for s in part.answer] for part in (task.problems("train"), task.problems("test"), task.corpus())
    )
    held_out = {problem(text) for text in test}
    assert sorted(corpus) == sorted(text for text in expected if problem(text) not in held_out)
    assert {problem(text) for text in train} | held_out == {problem(text) for text in expected}
    assert set(test) <= set(expected)


def test_a_setting_with_too_few_problems_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"--problems.max-number 2 .* 5 problems, and there are 1 with") as error:
        Countdown(max_number=2, max_target=1, operators="*").problems("train")
    assert "\n" not in str(error.value)


def test_a_target_is_no_number_to_calculate_with():
    task = Countdown()
    prompt = np.array([1, 1, 7, 15 + 7, *[MASK] * 5])
    plus, times = 15 + 99 + 1, 15 + 99 + 3
    honest = np.array([*prompt[:4], 1, times, 1, times, 7])
    assert task.reward(prompt, prompt, honest) == 1.0
    for cheat in ([7, times, 1, times, 7], [15 + 7, times, 1, times, 1], [7, plus, 0, plus, 0], [7, 0, 0, 0, 0]):
        assert task.reward(prompt, prompt, np.array([*prompt[:4], *cheat])) == 0.0
    easier = honest.copy()
    easier[3] = 15 + 1  # the given target replaced by one that an expression reaches
    assert task.reward(prompt, prompt, easier) == 0.0


def test_the_largest_products_are_no_other_target():
    task = Countdown(max_number=100, max_target=100, operators="*/")
    prompt = np.array([100, 100, 100, 100 + 100, *[MASK] * 5])
    times, divide = 200 + 1, 200 + 2
    expected = {(times, times): 0.1, (times, divide): 1.0, (divide, times): 1.0, (divide, divide): 0.1}
    for (first, second), reward in expected.items():
        action = np.array([*prompt[:4], 100, first, 100, second, 100])
        assert task.reward(prompt, prompt, action) == pytest.approx(reward)


def test_a_blank_a_bracket_or_a_digit_of_a_number_is_no_number_to_divide_by():
    task = Countdown(operators="/")
    prompt = np.array([2, 2, 4, 15 + 1, *[MASK] * 5])
    divide, beyond = 15 + 99 + 1, 15 + 99 + 2
    assert task.reward(prompt, prompt, np.array([*prompt[:4], 4, divide, 2, divide, 2])) == 1.0
    cheats = ([4, divide, MASK, divide, 2], [4, divide, 2, divide, MASK], [4, beyond, 2, divide, 2])
    cheats += ([beyond, divide, 2, divide, 2], [4, divide, 2, divide, 4], [4, 2, divide, 2, divide], [4, -1, 2, -1, 2])
    for cheat in cheats:
        assert task.reward(prompt, prompt, np.array([*prompt[:4], *cheat])) == 0.0


def test_a_division_need_not_be_whole_on_the_way():
    task = Countdown(operators="*/")
    prompt = np.array([2, 3, 6, 15 + 4, *[MASK] * 5])
    divide, times = 15 + 99 + 2, 15 + 99 + 1
    assert task.reward(prompt, prompt, np.array([*prompt[:4], 2, divide, 3, times, 6])) == 1.0  # 2 / 3 * 6 = 4
    assert task.reward(prompt, prompt, np.array([*prompt[:4], 2, divide, 3, divide, 6])) == pytest.approx(0.1)


def test_a_published_file_is_read_and_its_numbers_sorted(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"input": "30,100,93", "output": "23"}\n{"input": "92,1,1", "output": "46"}\n')
    task = Countdown(max_number=100, max_target=100)
    problems = task.read(path)
    assert task.render(problems.prompt[0]) == "30 93 100 -> 23: . . . . ."
    assert task.solved(*problems, problems.answer).tolist() == [True, False]  # no expression makes 46 of 92, 1, 1
    assert (problems.answer[1] == problems.prompt[1]).all()


@pytest.mark.parametrize(
    "line, message",
    [
        ("30,100,93", "line 2: expected an object like"),
        ('{"input": "30,x,93", "output": "23"}', "line 2: expected an object like"),
        ('{"input": "\u0663,4,5", "output": "23"}', "line 2: expected an object like"),  # an Arabic 3
        ('{"input": "1_0,4,5", "output": "23"}', "line 2: expected an object like"),
        ('{"input": "3,4,5", "output": 23.7}', "line 2: expected an object like"),
        ('{"input": "3,4,5", "output": true}', "line 2: expected an object like"),
        ('{"input": "3,4,-5", "output": "23"}', "line 2: expected an object like"),
        ('{"input": "3,4,5", "output": "' + "9" * 5000 + '"}', "line 2: expected an object like"),
        ("[" * 100_000, "line 2: expected an object like"),
        ('{"input": "30,93", "output": "23"}', "line 2: expected 3 numbers, got 2"),
        ('{"input": "3,4,93", "output": "23"}', "line 2: numbers 3 to 93, allowed 1 to --problems.max-number 15"),
        ('{"input": "3,4,5", "output": "0"}', "line 2: target 0, allowed 1 to --problems.max-target 99"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, line, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(f'{{"input": "3,4,5", "output": "23"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        Countdown().read(path)


@pytest.mark.parametrize("options", [{"max_number": 1}, {"max_target": 0}, {"operators": "+^"}, {"operators": "++"}])
def test_an_option_out_of_range_is_named(options):
    flag = next(iter(options)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--problems.{flag}"):
        Countdown(**options)
