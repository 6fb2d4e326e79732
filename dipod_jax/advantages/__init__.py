"""Advantage estimators, one per file. Importing this package registers them all."""

from __future__ import annotations

from dipod_jax.advantages.base import ADVANTAGES, AdvantageEstimator, Estimate, Segment, standardise

ADVANTAGES.discover(__name__)

__all__ = ["ADVANTAGES", "AdvantageEstimator", "Estimate", "Segment", "standardise"]
