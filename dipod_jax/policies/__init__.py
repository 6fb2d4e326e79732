"""Policies: how an action is drawn from base noise, and the loss that stands for its negative log-likelihood."""

from __future__ import annotations

from dipod_jax.config import Config
from dipod_jax.policies.base import Policy
from dipod_jax.policies.critic import Critic
from dipod_jax.policies.flow import FlowPolicy
from dipod_jax.policies.gaussian import GaussianPolicy

__all__ = ["Critic", "FlowPolicy", "GaussianPolicy", "Policy", "make_policy"]


def make_policy(config: Config, observation_size: int, action_size: int) -> Policy:
    """The policy that the config's objective trains: a Gaussian one for `ppo`, else a flow."""
    kind = GaussianPolicy if config.objective == "ppo" else FlowPolicy
    return kind(config.policy, observation_size, action_size)
