"""Policies: how an action is drawn from base noise, and the loss that stands for its negative log-likelihood."""

from __future__ import annotations

from collections.abc import Callable

from dipod_jax.config import Config
from dipod_jax.policies.base import Policy
from dipod_jax.policies.critic import Critic
from dipod_jax.policies.flow import ExactFlowPolicy, FlowPolicy
from dipod_jax.policies.gaussian import GaussianPolicy

__all__ = ["Critic", "ExactFlowPolicy", "FlowPolicy", "GaussianPolicy", "Policy", "make_policy"]

POLICIES: dict[str, Callable[..., Policy]] = {"fpo": FlowPolicy, "exact-ppo": ExactFlowPolicy, "ppo": GaussianPolicy}


def make_policy(config: Config, observation_size: int, action_size: int) -> Policy:
    """The policy that the config's objective trains."""
    return POLICIES[config.objective](config.policy, observation_size, action_size)
