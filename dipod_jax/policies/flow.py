"""The flow-matching policy: a velocity field, integrated from noise to action."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dipod_jax.bounds import (
    Draws,
    cfm_loss,
    elbo_loss,
    evaluation_times,
    integrate,
    interpolate,
    log_prob_of_action,
    sample_draws,
    time_grid,
    to_log_uniform,
)
from dipod_jax.config import PolicyConfig
from dipod_jax.networks import VelocityField

# A step of an update moves a path little: one or two corrections reach the tolerance, the rest is for stragglers.
NEWTON_ITERATIONS = 5
NEWTON_TOLERANCE = 1e-4


class FlowPolicy:
    """pi(a | obs): the image of N(0, I) under K steps of dx/dt = v(x, t | obs) from t = 1 to t = 0.

    A step is Euler's or the midpoint rule's, as the config says. The action is pre-tanh; the environment is given
    tanh(a).
    """

    loss_name = "cfm_loss"

    def __init__(self, config: PolicyConfig, observation_size: int, action_size: int):
        self.config, self.observation_size, self.action_size = config, observation_size, action_size
        self.times = time_grid(config.num_steps, kind="uniform")  # (K+1,)
        self.evaluation_times = evaluation_times(self.times, method=config.sampler)
        self._field = VelocityField(
            action_size, config.hidden_sizes, config.activation, config.time_embedding_size, config.output_scale
        )

    def init(self, key: jax.Array) -> Any:
        """Parameters of the velocity field."""
        return self._field.init(key, jnp.zeros(self.observation_size), jnp.zeros(self.action_size), jnp.zeros(()))

    def velocity(self, params: Any, obs: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) velocity at x_t (..., d) and t (...) for obs (..., O)."""
        return self._field.apply(params, obs, x_t, t)  # pyright: ignore[reportReturnType]

    def act(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """Pre-tanh action (..., d): the sampler's end point, started at base_noise (..., d)."""
        field = lambda x, t: self.velocity(params, obs, x, t)
        return integrate(field, base_noise, self.times, method=self.config.sampler)

    def sample_draws(self, key: jax.Array, batch_shape: tuple[int, ...]) -> Draws:
        """N pairs (t, eps) per action: t (..., N), eps (..., N, d); t is log-uniform for the form `elbo`."""
        c = self.config
        draws = sample_draws(
            key, batch_shape, c.num_draws, self.action_size, placement=c.draws, times=self.evaluation_times
        )
        return to_log_uniform(draws, delta=c.elbo_cutoff) if c.loss_form == "elbo" else draws

    def prepare(self, params: Any, key: jax.Array, obs: jax.Array, base_noise: jax.Array) -> Any:
        """The draws of `loss`."""
        del params, obs
        return self.sample_draws(key, base_noise.shape[:-1])

    def loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any) -> jax.Array:
        """(..., N) CFM loss of each draw."""
        return self.cfm_loss(params, obs, action, prepared)

    def cfm_loss(self, params: Any, obs: jax.Array, action: jax.Array, draws: Draws) -> jax.Array:
        """(..., N) CFM loss of each draw, in the config's form and reduction, or its share of the negative ELBO."""
        x_t = interpolate(action, draws.t, draws.eps)
        velocity = self.velocity(params, obs[..., None, :], x_t, draws.t)
        if self.config.loss_form == "elbo":
            error = cfm_loss(velocity, action, draws, form="velocity", reduction="sum")
            return elbo_loss(error, draws.t, delta=self.config.elbo_cutoff)
        return cfm_loss(velocity, action, draws, form=self.config.loss_form, reduction=self.config.reduction)

    def bound_loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any, loss: jax.Array) -> jax.Array:
        """The CFM loss, which `loss` is."""
        del params, obs, action, prepared
        return loss

    def entropy(self, params: Any, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """0: a flow's entropy has no closed form, and no objective here asks for it."""
        del params, base_noise
        return jnp.zeros(obs.shape[:-1])


class ExactFlowPolicy(FlowPolicy):
    """The same flow, with the exact likelihood of its K-step sampler in place of the CFM loss.

    `loss` is -log pi(a | obs) (`bounds.log_prob_of_action`): the sampler is inverted under the present parameters by
    Newton's method, each step starting from the path that the action took when it was drawn. Where a path is not found
    or the sampler folds space, the likelihood is not known and the loss NaN.
    """

    loss_name = "negative_log_prob"

    def prepare(self, params: Any, key: jax.Array, obs: jax.Array, base_noise: jax.Array) -> tuple[jax.Array, Draws]:
        """(..., K+1, d) the states from base noise to action, and the draws of the bound."""
        field = lambda x, t: self.velocity(params, obs, x, t)
        path = integrate(field, base_noise, self.times, method=self.config.sampler, return_path=True)
        return jnp.moveaxis(path, 0, -2), self.sample_draws(key, base_noise.shape[:-1])

    def loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any) -> jax.Array:
        """(..., 1) -log pi of each action in nats, summed over its dimensions (the tanh cancels in ratios)."""
        flat = lambda x, rank: x.reshape(-1, *x.shape[x.ndim - rank :])
        exact = log_prob_of_action(
            self.velocity,
            params,
            flat(obs, 1),
            flat(action, 1),
            self.times,
            method=self.config.sampler,
            guess_path=jnp.moveaxis(flat(prepared[0], 2), 1, 0),
            max_iterations=NEWTON_ITERATIONS,
            tolerance=NEWTON_TOLERANCE,
        )
        return -exact.log_prob.reshape(*action.shape[:-1], 1)

    def bound_loss(self, params: Any, obs: jax.Array, action: jax.Array, prepared: Any, loss: jax.Array) -> jax.Array:
        """(..., N) the CFM loss of each draw, beside the exact likelihood."""
        del loss
        return self.cfm_loss(params, obs, action, prepared[1])
