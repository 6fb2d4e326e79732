"""Things that can be chosen by name. The command line, the contract tests and the tables in the docs read the registry.

A member registers itself where it is defined, and `discover` imports every file of its package, so a new objective,
regulariser, policy or advantage estimator is one file; no list elsewhere has to name it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from dipod_jax.checks import check_choice

T = TypeVar("T")


class Registry(Mapping[str, type[T]]):
    """The members of one kind by name, in alphabetical order."""

    def __init__(self, kind: str):
        self.kind = kind
        self._members: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """A class decorator: `name` is the word on the command line, and is also set as the attribute `name` of the
        class.

        Raises:
            ValueError: the name is taken.
        """

        def add(member: type[T]) -> type[T]:
            if name in self._members:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self._members[name].__qualname__}")
            member.name = name  # pyright: ignore[reportAttributeAccessIssue]
            self._members[name] = member
            return member

        return add

    def discover(self, package: str) -> None:
        """Import every module of `package`, so that their members are registered."""
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")

    def choose(self, name: str) -> type[T]:
        """The member of that name.

        Raises:
            ValueError: one line that lists the available names.
        """
        check_choice(self.kind, name, self)
        return self._members[name]

    def __getitem__(self, name: str) -> type[T]:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._members))

    def __len__(self) -> int:
        return len(self._members)
