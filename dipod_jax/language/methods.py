"""How each objective of the library is used on tokens: how its scores are computed, and when their masks are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dipod_jax.checks import check_choice
from dipod_jax.objectives import OBJECTIVES, Objective
from dipod_jax.options import override
from dipod_jax.policies.masked import MaskedOptions

ONE_STEP = {"draws": "one-step", "num_draws": 1, "prompt_masking": 0.15, "bound_draws": 4}


@dataclass(frozen=True)
class Method:
    """A value of `--objective` on the language command: an objective and its defaults on tokens."""

    objective: str
    """name in the library's registry"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """options of the objective that differ from those for control"""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """of `MaskedOptions`; with `bound_draws` where its own draws give no ELBO for beta"""
    fresh_masks: bool = False
    """whether new masks are drawn for each inner update, or once per iteration"""
    learning_rate: float = 3e-4
    """of Adam"""
    built_in_beta: float = 0.0
    """added to beta: the regularisation of the bound that the method's own code includes"""


METHODS: dict[str, Method] = {
    "fpo": Method("fpo", {"clip_epsilon": 0.5}),
    # The released trainer adds .04 * (ELBO - ELBO_ref) to the loss as a KL. The reference is a constant: the gradient
    # is that of a beta of -.04, which pulls the bound loose (docs/table1.md).
    "fpo-released": Method("fpo", {"clip_epsilon": 0.5}, {"draws": "floor"}, built_in_beta=-0.04),
    "spg": Method("spg", {"ratio": "none"}, {"length_normalised": True}, fresh_masks=True, learning_rate=1e-4),
    "d1": Method("d1", {"kl_weight": None}, {**ONE_STEP, "scores": "token"}, fresh_masks=True),
    "wd1": Method("wd1", {"negative_loss_clamp": None}, ONE_STEP, fresh_masks=True, learning_rate=1e-4),
    "coupled-grpo": Method(
        "coupled-grpo",
        {"kl_weight": None},
        {"draws": "coupled-grpo", "num_draws": 3, "scores": "token", "bound_draws": 4},
    ),
    "unigrpo": Method("unigrpo", {"kl_weight": None}, {"draws": "stratified", "length_normalised": True}),
    "espo": Method("espo", {}, {"draws": "coupled", "length_normalised": True}),
    "gdpo": Method("gdpo", {}, {"draws": "gdpo", "num_draws": 3, "length_normalised": True, "bound_draws": 4}),
    "bgpo": Method("bgpo", {}, {"num_draws": 4}, learning_rate=1e-4),
    "dmpo": Method("dmpo", {"temperature": 0.04}, {"draws": "coupled", "length_normalised": True}, learning_rate=1e-4),
    "gdsd": Method("gdsd", {}, {"draws": "coupled", "length_normalised": True}),
}
"""If a `kl_weight` is set, the reference is the pretrained model. The learning rates of fpo, d1 and spg were chosen on
one seed of Sudoku; the others are untuned."""


def available_methods() -> tuple[str, ...]:
    """The methods whose objective is registered."""
    return tuple(name for name, method in METHODS.items() if method.objective in OBJECTIVES)


def choose(name: str) -> tuple[Method, Objective, MaskedOptions]:
    """The method of that name, its objective and its policy, with their default options.

    Raises:
        ValueError: one line that lists the available names.
    """
    check_choice("objective", name, available_methods())
    method = METHODS[name]
    return method, override(OBJECTIVES[method.objective](), method.options), override(MaskedOptions(), method.policy)
