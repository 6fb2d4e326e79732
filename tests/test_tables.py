"""Numbers are short, durations have two units, and a table is Markdown whose columns stand under each other."""

import math

import pytest

from dipod_jax.tables import counted, duration, short_number, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (950, "950"),
        (999.4, "999"),
        (999.6, "1k"),
        (-1000, "-1k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (250_000, "250k"),
        (999_600, "1M"),
        (1_500_000, "1.5M"),
        (2e9, "2G"),
        (5e12, "5000G"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_numbers_have_at_most_three_digits(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (3600, "1h00m"), (3725, "1h02m"), (math.nan, "-")],
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_one_of_a_kind_is_singular():
    assert [counted(n, "unit") for n in (0, 1, 2)] == ["0 units", "1 unit", "2 units"]


def test_a_table_is_markdown_with_aligned_columns():
    rows = [{"run": "beta 0", "best": "966"}, {"run": "a|b\nc", "best": "7"}]
    assert table(rows).splitlines() == [
        "| run    | best |",
        "| ------ | ---- |",
        "| beta 0 | 966  |",
        r"| a\|b c | 7    |",
    ]


def test_a_table_refuses_rows_of_other_columns():
    with pytest.raises(KeyError, match="best"):
        table([{"run": "a", "best": "1"}, {"run": "b"}])
