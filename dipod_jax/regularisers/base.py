"""A regulariser: a weighted term that can be added to the loss of any objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax

from dipod_jax.checks import Checked
from dipod_jax.options import register_options
from dipod_jax.registry import Registry
from dipod_jax.types import Scores

Need = Literal["bound", "entropy", "field", "steps"]
"""What a regulariser needs from a policy; `field`, its velocity field at the bound's draws."""


class Terms(NamedTuple):
    """The inputs of a regulariser; leading axes (...) are those of a minibatch."""

    new: Scores
    """scores under the current policy, of the same actions and draws as `old`"""
    old: Scores
    """scores under the acting policy"""
    reference: Scores | None
    """scores under the reference policy, if one is kept"""
    entropy: jax.Array | None
    """(...) estimated entropy of the current policy's squashed action in nats; None if the family has no estimate"""


@dataclass(frozen=True)
class Regulariser:
    """A weighted term for any objective. A subclass is a frozen dataclass under `@register_regulariser(name)`."""

    name: ClassVar[str]
    """the word on the command line: --regularisers.<name>.weight"""
    needs: ClassVar[Need | None] = None
    """what the policy must offer; with any other policy the config is refused, with the reason"""
    needs_reference: ClassVar[bool] = False
    """whether it compares with a reference policy, which must be kept"""

    weight: float = 0.0
    """weight of the term, >= 0; 0 leaves it out"""

    def validate(self) -> None:
        """Reject options that are out of range, with one line."""
        check = Checked(self, f"regularisers.{self.name}")
        check.choices()
        check.number("weight")

    def check_policy(self, policy: Any) -> None:
        """Refuse options of a policy that has what it `needs`, with one line; called where it has a weight."""
        del policy

    def __call__(self, terms: Terms) -> jax.Array:
        """The weighted term, a scalar to minimise."""
        raise NotImplementedError


REGULARISERS: Registry[Regulariser] = Registry("regulariser")
RegulariserT = TypeVar("RegulariserT", bound=Regulariser)


def register_regulariser(name: str):
    """A class decorator for a frozen dataclass of options that is a `Regulariser`."""

    def add(cls: type[RegulariserT]) -> type[RegulariserT]:
        REGULARISERS.register(name)(cls)
        return register_options(cls)

    return add
