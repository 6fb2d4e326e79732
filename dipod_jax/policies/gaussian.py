"""The Gaussian policy of PPO, pre-tanh, with a state-dependent diagonal scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.networks import MLP
from dipod_jax.policies.base import POLICIES, PolicyOptions
from dipod_jax.types import Params, Scores, Steps, make_scores

MIN_STD = 1e-3


@POLICIES.register("gaussian")
@dataclass(frozen=True)
class GaussianOptions(PolicyOptions):
    """A Gaussian policy with a state-dependent diagonal scale; the environment is given the tanh of its sample."""

    has_entropy: ClassVar[bool] = True
    has_steps: ClassVar[bool] = True  # one, the action itself

    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    """nonlinearity between layers"""

    def build(self, observation_size: int, action_size: int) -> GaussianPolicy:
        return GaussianPolicy(self, observation_size, action_size)


class GaussianPolicy:
    """pi(a | obs) = N(mu(obs), diag(sigma(obs))^2), sigma = softplus(raw) + 1e-3; the environment is given tanh(a)."""

    score_name = "negative_log_prob"
    field: None = None

    def __init__(self, options: GaussianOptions, observation_size: int, action_size: int):
        self.options, self.observation_size, self.action_size = options, observation_size, action_size
        self.noise_shape = (action_size,)
        self._network = MLP(options.hidden_sizes, 2 * action_size, options.activation)

    def init(self, key: jax.Array) -> Params:
        """Parameters of the network that gives mu and sigma."""
        return self._network.init(key, jnp.zeros(self.observation_size))

    def distribution(self, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mu and sigma, (..., d) each."""
        mean, raw = jnp.split(self._network.apply(params, obs), 2, axis=-1)  # pyright: ignore[reportArgumentType]
        return mean, jax.nn.softplus(raw) + MIN_STD

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, tuple[()]]:
        """Pre-tanh action mu + sigma * noise, (..., d); noise 0 gives the mean action. The trace is empty."""
        mean, std = self.distribution(params, obs)
        return mean + std * noise, ()

    def squash(self, action: jax.Array) -> jax.Array:
        """tanh."""
        return jnp.tanh(action)

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: tuple[()]) -> tuple[()]:
        """Nothing: the likelihood has a closed form."""
        del params, key, obs
        return trace

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: tuple[()]) -> Scores:
        """(..., 1) exact -log N(action; mu, sigma), summed over action dimensions (the tanh cancels in ratios)."""
        del evidence
        mean, std = self.distribution(params, obs)
        log_prob = -0.5 * jnp.square((action - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)
        scores = make_scores(-log_prob.sum(-1, keepdims=True))
        return scores._replace(steps=Steps(mean[..., None, :], std[..., None, :]))

    def entropy(self, params: Params, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """(...) entropy of tanh(a): the Gaussian's in closed form plus log|d tanh(z)/dz| at one fresh sample z.

        H = sum_d [1/2 log(2 pi e) + log sigma + 2 (log 2 - z - softplus(-2 z))]
        """
        mean, std = self.distribution(params, obs)
        z = mean + std * noise
        log_jacobian = 2.0 * (jnp.log(2.0) - z - jax.nn.softplus(-2.0 * z))
        return (0.5 * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(std) + log_jacobian).sum(-1)
