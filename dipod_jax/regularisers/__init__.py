"""Regularisers: terms that go over any objective, one a file. Importing this finds them all."""

from __future__ import annotations

from dipod_jax.regularisers.base import REGULARISERS, Need, Regulariser, Terms, register_regulariser

REGULARISERS.discover(__name__)

__all__ = ["REGULARISERS", "Need", "Regulariser", "Terms", "register_regulariser"]
