"""Formatting of numbers and tables, for terminals and documents."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def short_number(value: float) -> str:
    """`value` in three digits, with k, M or G above a thousand: 0.25, 950, 12.3k, 1.5M. A dash if not finite."""
    if not math.isfinite(value):
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{letter}" if abs(scaled) >= 999.5 else f"{scaled:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """`seconds` as 42s, 3m07s or 1h02m. A dash if not finite."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def counted(count: int, noun: str) -> str:
    """`1 unit`, `2 units`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number_or_dash(value: float | None, form: str) -> str:
    """`value` in a format such as `.2f`; a dash where there is none."""
    return "-" if value is None else format(value, form)


def mean_of_numbers(values: Iterable[float | None]) -> float | None:
    """Mean of those that are finite numbers; None where none is."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under a heading; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with aligned columns, readable on a terminal too.

    Args:
        rows: at least one; column -> cell, with the same columns in every row. The columns' names are the heading.

    Returns:
        Lines without a newline at the end. A `|` inside a cell is escaped, a line break becomes a space.
    """
    columns = [[_cell(name), *(_cell(row[name]) for row in rows)] for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    heading, *lines = zip(*columns, strict=True)
    rule = tuple("-" * width for width in widths)
    padded = ((cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (heading, rule, *lines))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def shown_return(value: float | None, sign: str = "") -> str:
    """A return as text, rounded to a whole number if it is large."""
    if value is None:
        return "-"
    return f"{value:{sign}.0f}" if abs(value) >= 10 else f"{value:{sign}.2g}"
