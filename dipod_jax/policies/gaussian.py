"""The Gaussian policy of PPO, pre-tanh, with a state-dependent diagonal scale."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dipod_jax.config import PolicyConfig
from dipod_jax.networks import MLP

MIN_STD = 1e-3


class GaussianPolicy:
    """pi(a | obs) = N(mu(obs), diag(sigma(obs))^2), sigma = softplus(raw) + 1e-3; the environment is given tanh(a)."""

    loss_name = "negative_log_prob"

    def __init__(self, config: PolicyConfig, observation_size: int, action_size: int):
        self.config, self.observation_size, self.action_size = config, observation_size, action_size
        self._network = MLP(config.hidden_sizes, 2 * action_size, config.activation)

    def init(self, key: jax.Array) -> Any:
        """Parameters of the network that gives mu and sigma."""
        return self._network.init(key, jnp.zeros(self.observation_size))

    def distribution(self, params: Any, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mu and sigma, (..., d) each."""
        mean, raw = jnp.split(self._network.apply(params, obs), 2, axis=-1)  # pyright: ignore[reportArgumentType]
        return mean, jax.nn.softplus(raw) + MIN_STD

    def act(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """Pre-tanh action mu + sigma * base_noise, (..., d); base noise 0 gives the mean action."""
        mean, std = self.distribution(params, obs)
        return mean + std * base_noise

    def prepare(self, params: Any, key: jax.Array, obs: jax.Array, base_noise: jax.Array) -> tuple[()]:
        """Nothing: the likelihood has a closed form."""
        del params, key, obs, base_noise
        return ()

    def loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any) -> jax.Array:
        """(..., 1) exact -log N(action; mu, sigma), summed over action dimensions (the tanh cancels in ratios)."""
        del prepared
        mean, std = self.distribution(params, obs)
        log_prob = -0.5 * jnp.square((action - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)
        return -log_prob.sum(-1, keepdims=True)

    def bound_loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any, loss: jax.Array) -> jax.Array:
        """The likelihood is its own bound."""
        del params, obs, action, prepared
        return loss

    def entropy(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """(...) entropy of tanh(a): the Gaussian's in closed form plus log|d tanh(z)/dz| at one fresh sample z.

        H = sum_d [1/2 log(2 pi e) + log sigma + 2 (log 2 - z - softplus(-2 z))]
        """
        mean, std = self.distribution(params, obs)
        z = mean + std * base_noise
        log_jacobian = 2.0 * (jnp.log(2.0) - z - jax.nn.softplus(-2.0 * z))
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(std) + log_jacobian).sum(-1)
