"""What the trainer asks of any policy."""

from __future__ import annotations

from typing import Any, Protocol

import jax


class Policy(Protocol):
    """An action distribution that is sampled by pushing base noise N(0, I) through a network.

    The trainer knows no more of it than this: an action is a function of observation and base noise, and
    `loss` is a surrogate of its negative log-likelihood, one value per draw (a likelihood is the case N = 1).
    """

    action_size: int
    loss_name: str  # what the mean of `loss` is called in the metrics

    def init(self, key: jax.Array) -> Any:
        """Parameters."""
        ...

    def act(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """Pre-tanh action (..., d) for obs (..., O) and base noise (..., d)."""
        ...

    def prepare(self, params: Any, key: jax.Array, obs: jax.Array, base_noise: jax.Array) -> Any:
        """What `loss` needs of actions drawn from base_noise (..., d), made once under the acting parameters and kept
        for every update on them; leading axes (...)."""
        ...

    def loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any) -> jax.Array:
        """(..., N) surrogate of -log pi(action | obs); lower is more likely, NaN where it is not known."""
        ...

    def bound_loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any, loss: jax.Array) -> jax.Array:
        """(..., N) what DiPOD's beta weighs, the negative of a bound: `loss` itself, given as the last argument, where
        that is one."""
        ...

    def entropy(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """(...) single-sample estimate of the squashed policy's entropy in nats; 0 where there is none."""
        ...
