"""What goes over any objective: a weight and a term that is added to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax

from dipod_jax.checks import Checked
from dipod_jax.options import register_options
from dipod_jax.registry import Registry
from dipod_jax.types import Scores

Need = Literal["bound", "entropy", "reference", "velocity", "steps", "denoised"]
"""What a regulariser asks of a policy: velocity is that of its draws, steps those that made an action, and both come
with a reference's; denoised what the network makes of each draw."""


class Terms(NamedTuple):
    """What a regulariser may be made of; leading axes (...) are a minibatch's."""

    new: Scores
    """under the present policy, of the same actions and draws as `old`"""
    old: Scores
    """under the acting policy"""
    reference: Scores | None
    """under the reference policy, where one is kept"""
    entropy: jax.Array | None
    """(...) an estimate of the present policy's entropy in nats, of the squashed action; None: it has none"""


@dataclass(frozen=True)
class Regulariser:
    """A weighted term over any objective. A subclass is a frozen dataclass under `@register_regulariser(name)`."""

    name: ClassVar[str]
    """the word on the command line: --regularisers.<name>.weight"""
    needs: ClassVar[Need | None] = None
    """what the policy must offer; it is refused, with a reason, over one that does not"""

    weight: float = 0.0
    """weight of the term, >= 0; 0 leaves it out"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, f"regularisers.{self.name}")
        check.choices()
        check.number("weight")

    def check_policy(self, policy: Any) -> None:
        """Refuse options of a policy that has what it `needs`, with one line; called where it has a weight."""
        del policy

    @property
    def needs_reference(self) -> bool:
        """Whether a reference policy has to be kept."""
        return self.needs in ("reference", "velocity", "steps")

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
