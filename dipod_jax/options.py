"""Options as data: frozen dataclasses whose floats are pytree leaves, so that one compiled program serves a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import jax
import jax.numpy as jnp

from dipod_jax.checks import type_hints

T = TypeVar("T")


def register_options(cls: type[T]) -> type[T]:
    """A class decorator: make a frozen dataclass a pytree whose leaves are the fields of type `float` (or `float |
    None`, with no leaf if it is None). Fields of other types are part of the structure: changing one needs another
    compilation.
    """
    hints = type_hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    tunable = [name for name in fields if hints[name] is float or float in get_args(hints[name])]
    jax.tree_util.register_dataclass(cls, tunable, [name for name in fields if name not in tunable])
    return cls


def as_arrays(options: T) -> T:
    """The same options with float32 arrays () for leaves."""
    return jax.tree.map(jnp.float32, options)


def override(options: Any, values: Mapping[str, Any]) -> Any:
    """A copy of nested dataclasses with fields set by dotted name: `{"policy.num_draws": 4, "beta": 0.05}`.

    Raises:
        TypeError: a field that does not exist.
    """
    changes: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            deeper.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes |= {head: override(getattr(options, head), inner) for head, inner in deeper.items()}
    return dataclasses.replace(options, **changes)
