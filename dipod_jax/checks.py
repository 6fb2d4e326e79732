"""The one-line message that rejects an option: its flag, its value, what is allowed. Imports nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints


@functools.cache
def type_hints(cls: type) -> Mapping[str, Any]:
    """The types of a class's fields by name; reading them is most of what it takes to check a config."""
    return get_type_hints(cls)


def require(allowed: bool, flag: str, value: Any, what: str) -> None:
    """Raise ValueError with the line that a command line shows.

    Args:
        allowed: whether the value is.
        flag: the option's name without dashes, e.g. "policy.num-steps".
        value: as given.
        what: what is allowed, and a way out if there is one.
    """
    if not allowed:
        raise ValueError(f"--{flag} {value} is not allowed: {what}")


def check_number(flag: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Reject a number outside [low, high] (outside (low, high] with `open_low`), NaN, and anything an int64 cannot
    hold."""
    inside = abs(value) < 2**63 and value <= high and (value > low if open_low else value >= low)
    bound = f"{'more than' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    require(inside, flag, value, f"a finite number, {bound}")


def check_choice(flag: str, value: Any, choices: Iterable[str]) -> None:
    """Reject a word that is not one of `choices`."""
    choices = tuple(choices)
    require(value in choices, flag, value, f"one of {', '.join(choices)}")


def check_selection(flag: str, values: Sequence[Any], choices: Iterable[Any] | None = None) -> None:
    """Reject anything but one or more different values, taken from `choices` if given.

    The message names the values that are not choices, or else all of them.
    """
    allowed = None if choices is None else tuple(choices)
    what = "one or more different values" if allowed is None else f"one or more of {', '.join(map(str, allowed))}"
    unknown = [value for value in values if allowed is not None and value not in allowed]
    shown = " ".join(map(str, unknown or values)) or "without a value"
    require(len(values) > 0 and not unknown, flag, shown, what)
    require(len(set(values)) == len(values), flag, shown, f"{what}, each once" if choices is not None else what)


def flag_of(group: str, name: str) -> str:
    """The command line's name of a field: `("policy", "num_steps")` is `policy.num-steps`; group "" is the top."""
    return f"{group}.{name}".removeprefix(".").replace("_", "-")


class Checked:
    """Checks over the fields of an options dataclass, for use in its `validate`; `group` is its place in the config."""

    def __init__(self, options: Any, group: str = ""):
        self.options, self.group = options, group

    def number(self, *names: str, low: float = 0.0, high: float = math.inf, open_low: bool = False) -> None:
        """Each field a number in range; a field that is None passes."""
        for name in names:
            if (value := getattr(self.options, name)) is not None:
                check_number(flag_of(self.group, name), value, low, high, open_low=open_low)

    def positive(self, *names: str) -> None:
        """Each field more than 0; a field that is None passes."""
        self.number(*names, open_low=True)

    def choices(self) -> None:
        """Every `Literal` field holds one of its words: a misspelt choice must not be read as another."""
        for name, hint in type_hints(type(self.options)).items():
            if get_origin(hint) is Literal:
                check_choice(flag_of(self.group, name), getattr(self.options, name), get_args(hint))

    def require(self, allowed: bool, name: str, what: str) -> None:
        """`require` on a field."""
        require(allowed, flag_of(self.group, name), getattr(self.options, name), what)
