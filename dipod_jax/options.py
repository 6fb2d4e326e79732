"""Options as data: frozen dataclasses whose floats are pytree leaves, so that one compiled program serves a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import jax
import jax.numpy as jnp

from dipod_jax.checks import type_hints

T = TypeVar("T")


def register_options(cls: type[T]) -> type[T]:
    """A class decorator: make a frozen dataclass a pytree whose leaves are the fields of type `float` (or `float |
    None`, with no leaf if it is None). Fields of other types are part of the structure: changing one needs another
    compilation.

    Not by `jax.tree_util.register_dataclass`: the structures of two such classes with equally many leaves and equal
    other fields are equal (jaxlib 0.10 and 0.11), so that a compiled function of one can be handed the other's program.
    """
    hints = type_hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    tunable = [name for name in fields if hints[name] is float or float in get_args(hints[name])]
    static = [name for name in fields if name not in tunable]

    def flatten(options: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(options, name) for name in tunable), tuple(getattr(options, name) for name in static)

    def flatten_with_keys(options: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves, aux = flatten(options)
        return tuple(zip(map(jax.tree_util.GetAttrKey, tunable), leaves, strict=True)), aux

    def unflatten(aux: tuple[Any, ...], leaves: Iterable[Any]) -> T:
        return cls(**dict(zip(tunable, leaves, strict=True)), **dict(zip(static, aux, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
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
