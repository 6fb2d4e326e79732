"""Objectives: pure functions of per-draw losses and advantages. How one is added: docs/architecture.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax

from dipod_jax.config import Config
from dipod_jax.objectives.dipod import dipod_loss
from dipod_jax.objectives.fpo import fpo_loss, log_ratio, spo_penalty
from dipod_jax.objectives.ppo import ppo_clip, ppo_loss

__all__ = [
    "OBJECTIVES",
    "ObjectiveFn",
    "dipod_loss",
    "fpo_loss",
    "log_ratio",
    "make_objective",
    "ppo_clip",
    "ppo_loss",
    "spo_penalty",
]

# (loss_new (..., N), loss_old (..., N), advantage (...), clip_epsilon=) -> scalar
ObjectiveFn = Callable[..., jax.Array]


def _fpo(config: Config) -> ObjectiveFn:
    c = config.fpo
    return partial(
        fpo_loss,
        average_draws=c.ratio == "average",
        asymmetric=c.negative_advantages == "spo",
        log_ratio_clip=c.log_ratio_clip,
        negative_loss_clamp=c.negative_loss_clamp,
    )


OBJECTIVES: dict[str, Callable[[Config], ObjectiveFn]] = {
    "fpo": _fpo,
    "exact-ppo": lambda config: ppo_loss,
    "ppo": lambda config: ppo_loss,
}


def make_objective(config: Config) -> ObjectiveFn:
    """The config's objective, with its options bound; the clip range stays an argument."""
    return OBJECTIVES[config.objective](config)
