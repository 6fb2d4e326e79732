"""The sentence that refuses a selection names what was given and what may be."""

import pytest

from dipod_jax.checks import check_selection


@pytest.mark.parametrize(
    ("values", "choices", "sentence"),
    [
        ((), "ab", "--x without a value is not allowed: one or more of a, b"),
        (("a", "c", "d"), "ab", "--x c d is not allowed: one or more of a, b"),
        (("a", "a"), "ab", "--x a a is not allowed: one or more of a, b, each once"),
        ((), None, "--x without a value is not allowed: one or more different values"),
        ((1, 1), None, "--x 1 1 is not allowed: one or more different values"),
    ],
)
def test_a_selection_is_refused_in_one_sentence(values, choices, sentence):
    with pytest.raises(ValueError) as refused:
        check_selection("x", values, choices)
    assert str(refused.value) == sentence


def test_different_values_are_a_selection():
    check_selection("x", ("b", "a"), "ab")
    check_selection("x", (1, 2))
