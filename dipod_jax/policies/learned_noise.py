"""A flow whose sampler has learned noise at every step."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds import Transitions, constant_noise, standard_normal_log_prob
from dipod_jax.checks import Checked
from dipod_jax.networks import MLP, time_embedding
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.exact_flow import PathAndDraws
from dipod_jax.policies.flow_sde import ChainOptions, FlowSdePolicy, path_losses
from dipod_jax.types import Params, Scores, Steps, make_scores


@POLICIES.register("learned-noise-flow")
@dataclass(frozen=True)
class LearnedNoiseOptions(ChainOptions):
    """A flow-matching policy whose sampler adds noise at every step; a network learns its scale, between two bounds."""

    min_noise: float = 0.10
    """smallest standard deviation of a step's noise, > 0, in units of the pre-tanh action"""
    max_noise: float = 0.24
    """largest standard deviation of a step's noise, more than the smallest"""

    def validate(self) -> None:
        super().validate()
        check = Checked(self, "policy")
        check.positive("min_noise")
        check.number("max_noise", low=self.min_noise, open_low=True)

    def build(self, observation_size: int, action_size: int) -> LearnedNoisePolicy:
        return LearnedNoisePolicy(self, observation_size, action_size)


class LearnedNoisePolicy(FlowSdePolicy):
    """x_{k+1} ~ N(x_k + dt v(x_k, t_k), diag(sigma(obs, t_k))^2) (ReinFlow, arXiv 2505.22094); the action is x_K.

    log sigma interpolates between the logs of the bounds, by the logistic function of a network's output. Parameters
    are {"field": ..., "noise": ...}.
    """

    score_name = "path_negative_log_prob"

    def __init__(self, options: LearnedNoiseOptions, observation_size: int, action_size: int):
        # The steps' standard deviation is the network's: the coefficients' is only its upper bound.
        bound = lambda times: constant_noise(times, std=options.max_noise)
        super().__init__(options, observation_size, action_size, bound)
        self.log_bounds = float(np.log(options.min_noise)), float(np.log(options.max_noise))
        self._noise = MLP(options.hidden_sizes, action_size, options.activation)

    def init(self, key: jax.Array) -> Params:
        """Parameters of the velocity field and of the noise's network."""
        field_key, noise_key = jax.random.split(key)
        inputs = jnp.zeros(self.observation_size + self.options.time_embedding_size)
        return {"field": super().init(field_key), "noise": self._noise.init(noise_key, inputs)}

    def velocity(self, params: Params, obs: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) velocity at x_t (..., d) and t (...) for obs (..., O)."""
        return super().velocity(params["field"], obs, x_t, t)

    def noise(self, params: Params, obs: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) sigma for obs (..., O) and t (...), broadcast against each other."""
        embedding = time_embedding(t, self.options.time_embedding_size)
        shape = jnp.broadcast_shapes(obs.shape[:-1], t.shape)
        inputs = [jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (obs, embedding)]
        low, high = self.log_bounds
        share = jax.nn.sigmoid(self._noise.apply(params["noise"], jnp.concatenate(inputs, axis=-1)))  # pyright: ignore
        return jnp.exp(low + (high - low) * share)

    def step(
        self, params: Params, obs: jax.Array, x: jax.Array, t: jax.Array, t_next: jax.Array, coefficients: Transitions
    ) -> Steps:
        """The distribution of the state that follows x (..., d): move and std (..., d)."""
        move, *_ = super().step(params, obs, x, t, t_next, coefficients)
        return Steps(move, jnp.broadcast_to(self.noise(params, obs, t), move.shape))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: PathAndDraws) -> Scores:
        """(..., 1) -log p of the whole path, start included, divided by (K + 1) d: in nats per state and dimension.

        It is evaluated at the times at which the path was drawn; ReinFlow's code scores at other times than it acts by.
        """
        steps, path = self.steps(params, obs, evidence.path), evidence.path
        total = path_losses(steps, path).sum(-1) - standard_normal_log_prob(path[..., 0, :])
        per_number = total / (path.shape[-2] * path.shape[-1])
        bound, field = self.bound(params, obs, action, evidence.draws)
        return make_scores(per_number[..., None], bound=bound, field=field)._replace(steps=steps)
