"""Policies: how an action is drawn from base noise, and the score that stands for its negative log-likelihood."""

from __future__ import annotations

from dipod_jax.policies.base import (
    POLICIES,
    ChainPolicy,
    ConditionalPolicy,
    FieldPolicy,
    Policy,
    PolicyOptions,
    check_hidden_sizes,
)
from dipod_jax.policies.critic import Critic

POLICIES.discover(__name__)

__all__ = [
    "POLICIES",
    "ChainPolicy",
    "ConditionalPolicy",
    "Critic",
    "FieldPolicy",
    "Policy",
    "PolicyOptions",
    "check_hidden_sizes",
]
