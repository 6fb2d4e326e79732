"""A flow with Gaussian noise added at its end, scored given the base noise that it started from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds import Draws, integrate, standard_normal_log_prob
from dipod_jax.checks import Checked
from dipod_jax.policies.base import POLICIES
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.types import Params, Scores, Steps, Trace, make_scores

LOG_STD_RANGE = (-5.0, 2.0)


@POLICIES.register("terminal-noise-flow")
@dataclass(frozen=True)
class TerminalNoiseOptions(FlowOptions):
    """A flow-matching policy with learned Gaussian noise on its end point, one standard deviation per dimension."""

    has_steps: ClassVar[bool] = True  # one, the last

    initial_noise: float = 1.0
    """initial standard deviation of the terminal noise, in [.0068, 7.3], in units of the pre-tanh action"""

    def validate(self) -> None:
        super().validate()
        low, high = np.exp(LOG_STD_RANGE)
        Checked(self, "policy").number("initial_noise", low=float(low), high=float(high))

    def build(self, observation_size: int, action_size: int) -> TerminalNoisePolicy:
        return TerminalNoisePolicy(self, observation_size, action_size)


class Ends(NamedTuple):
    """The trace of an action phi + n, where phi is the end of the flow."""

    base_noise: jax.Array  # (..., d) z, where the flow started
    endpoint: jax.Array  # (..., d) phi
    noise: jax.Array  # (..., d) n


class EndsAndVelocity(NamedTuple):
    """Evidence of one action."""

    ends: Ends
    draws: Draws  # of the bound; their times are those at which velocities are compared
    velocity: jax.Array  # (..., N, d) the acting policy's, on the chord from phi to z


class TerminalNoisePolicy(FlowPolicy):
    """a = phi(z, obs) + n, z ~ N(0, I), n ~ N(0, diag(sigma)^2); the environment is given tanh(a).

    The score is minus the log density of a given z (PolicyFlow, arXiv 2602.01156, eq. 13), which approximates the
    change of phi by the change of velocity at one point of the chord from phi to z. That is exact for one Euler step;
    with more steps it ignores how the flow propagates the change. Parameters are {"field": ..., "log_std": (d,)}.
    """

    score_name = "negative_log_prob_given_noise"

    def __init__(self, options: TerminalNoiseOptions, observation_size: int, action_size: int):
        super().__init__(options, observation_size, action_size)
        self.initial_noise = options.initial_noise
        self.noise_shape = (2, action_size)
        self.conditional = self

    def init(self, key: jax.Array) -> Params:
        """Parameters of the velocity field and of the noise."""
        return {
            "field": super().init(key),
            "log_std": jnp.full(self.action_size, np.log(self.initial_noise), jnp.float32),
        }

    def velocity(self, params: Params, obs: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) velocity at x_t (..., d) and t (...) for obs (..., O)."""
        return super().velocity(params["field"], obs, x_t, t)

    def std(self, params: Params) -> jax.Array:
        """(d,) standard deviations of the terminal noise."""
        return jnp.exp(jnp.clip(params["log_std"], *LOG_STD_RANGE))

    def endpoint(self, params: Params, obs: jax.Array, base_noise: jax.Array) -> jax.Array:
        """(..., d) phi, where the sampler takes base noise (..., d)."""
        field = lambda x, t: self.velocity(params, obs, x, t)
        return integrate(field, base_noise, self.times, method=self.method)

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Action (..., d) and its parts, for noise (..., 2, d): that of the start and that of the end."""
        base_noise, end_noise = noise[..., 0, :], self.std(params) * noise[..., 1, :]
        endpoint = self.endpoint(params, obs, base_noise)
        return endpoint + end_noise, Ends(base_noise, endpoint, end_noise)

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Ends) -> EndsAndVelocity:
        """The parts of the action, draws, and the acting velocities at points of the chord.

        The paper's code draws one time for every minibatch; here N times are drawn once per iteration and all of them
        are used in every update.
        """
        draws = self.sample_draws(key, obs.shape[:-1])
        return EndsAndVelocity(trace, draws, self._chord_velocity(params, obs, trace, draws.t))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: EndsAndVelocity) -> Scores:
        """(..., N) -log N(n + u; 0, diag(sigma)^2) in nats, u = v_new - v_old at points of the chord; sampling moves
        against the velocity, so phi moves by -u.

        The bound is the CFM loss at phi, the flow's own sample. The penalty is PolicyFlow's Brownian regulariser,
        (t v_new + x_t + (1 - t) v_old)^2, averaged over draws and dimensions: it pulls the new velocity towards the old
        score, which spreads actions, and its gradient is nonzero from the first step.
        """
        del action
        ends, draws, acting = evidence
        velocity = self._chord_velocity(params, obs, ends, draws.t)
        shift = velocity - acting
        log_std = jnp.log(self.std(params))
        z = (ends.noise[..., None, :] + shift) * jnp.exp(-log_std)
        loss = (0.5 * jnp.square(z) + log_std + 0.5 * np.log(2.0 * np.pi)).sum(-1)
        t = draws.t[..., None]
        brownian = jnp.square(t * velocity + self._chord(ends, draws.t) + (1.0 - t) * acting).mean(-1)
        bound, field = self.bound(params, obs, ends.endpoint, draws)
        scores = make_scores(loss, weight=self.draw_weights, bound=bound, field=field)
        std = jnp.broadcast_to(jnp.exp(log_std), shift.shape)
        steps = Steps(-shift, std, jnp.broadcast_to(self.draw_weights, loss.shape))
        penalty = brownian @ self.draw_weights
        return scores._replace(steps=steps, penalty=penalty)

    def given_noise(
        self, params: Params, obs: jax.Array, action: jax.Array, evidence: EndsAndVelocity
    ) -> tuple[Params, Callable[[Params], jax.Array], Callable[[Params], jax.Array]]:
        """The parameters of the field, and the density of the action given z: as scored, and with the flow's actual new
        end."""
        std, base_noise = self.std(params), evidence.ends.base_noise

        def exact(field: Params) -> jax.Array:
            end = self.endpoint(params | {"field": field}, obs, base_noise)
            return standard_normal_log_prob((action - end) / std) - jnp.log(std).sum()

        scored = lambda field: -self.score(params | {"field": field}, obs, action, evidence).mean()
        return params["field"], scored, exact

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: Ends) -> tuple[jax.Array, jax.Array]:
        """The base noise and the end of the flow, without the terminal noise."""
        del params, obs, action
        return trace.base_noise, trace.endpoint

    def _chord(self, ends: Ends, t: jax.Array) -> jax.Array:
        """(..., N, d) points (1 - t) phi + t z."""
        t = t[..., None]
        return (1.0 - t) * ends.endpoint[..., None, :] + t * ends.base_noise[..., None, :]

    def _chord_velocity(self, params: Params, obs: jax.Array, ends: Ends, t: jax.Array) -> jax.Array:
        return self.velocity(params, obs[..., None, :], self._chord(ends, t), t)
