"""Regularisers: terms that can be added to any objective, one per file. Importing this package registers them all."""

from __future__ import annotations

from dipod_jax.regularisers.base import REGULARISERS, Need, Regulariser, Terms, register_regulariser

REGULARISERS.discover(__name__)

__all__ = ["REGULARISERS", "Need", "Regulariser", "Terms", "register_regulariser"]
