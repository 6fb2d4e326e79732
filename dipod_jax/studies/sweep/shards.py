"""Parts of a plan: unit k belongs to shard k mod n, so that a plan that grows leaves every shard what it has."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from dipod_jax.checks import require

T = TypeVar("T")


class Shard(NamedTuple):
    """The part `index` of `count`, 0 <= index < count."""

    index: int
    count: int

    def of(self, units: Sequence[T]) -> list[T]:
        """Its units of all."""
        return list(units[self.index :: self.count])


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """`i/n`; of an empty text, as Slurm's array or Kubernetes' indexed job says.

    Raises:
        ValueError: one line.
    """
    if text == "":
        return _from_environment(environment)
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    require(shard.index < shard.count, "shard", text, "i/n with 0 <= i < n")
    return shard


def _from_environment(environment: Mapping[str, str]) -> Shard:
    read = lambda name, default=None: _number(name, environment.get(name, default))
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = read("SLURM_ARRAY_TASK_MIN", "0"), read("SLURM_ARRAY_TASK_STEP", "1") or 1
        index, rest = divmod(read("SLURM_ARRAY_TASK_ID") - first, step)
        count = read("SLURM_ARRAY_TASK_COUNT")
        what = "i/n where the array is not a range, as --array=0-7 is"
        require(rest == 0 and 0 <= index < count, "shard", "without a value", what)
        return Shard(index, count)
    if "JOB_COMPLETION_INDEX" in environment:
        index, count = read("JOB_COMPLETION_INDEX"), read("JOB_COMPLETIONS")
        require(index < count, "shard", "without a value", "i/n where JOB_COMPLETION_INDEX >= JOB_COMPLETIONS")
        return Shard(index, count)
    what = "i/n, or nothing in a Slurm array (SLURM_ARRAY_TASK_ID) or an indexed job (JOB_COMPLETION_INDEX)"
    require(False, "shard", "without a value", what)
    raise AssertionError


def _number(name: str, text: str | None) -> int:
    given = text is not None and text.isdecimal()
    require(given, "shard", "without a value", f"i/n where {name} is {'not set' if text is None else repr(text)}")
    assert text is not None
    return int(text)
