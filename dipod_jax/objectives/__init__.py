"""Objectives: options, and a pure function of scores and advantages; one method per file. Importing this package
registers them all."""

from __future__ import annotations

from dipod_jax.objectives.base import (
    OBJECTIVES,
    Objective,
    clamp_straight_through,
    exp_bounded,
    ratio_metrics,
    register_objective,
)

OBJECTIVES.discover(__name__)

__all__ = ["OBJECTIVES", "Objective", "clamp_straight_through", "exp_bounded", "ratio_metrics", "register_objective"]
