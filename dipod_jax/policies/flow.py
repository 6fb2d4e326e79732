"""The flow-matching policy: a velocity field, integrated from noise to action."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dipod_jax.bounds import (
    CfmSpec,
    Draws,
    cfm_loss,
    draw_weights,
    elbo_loss,
    evaluation_times,
    gaussian_velocity,
    integrate,
    interpolate,
    invert,
    sample_draws,
    time_grid,
    to_log_uniform,
)
from dipod_jax.checks import Checked
from dipod_jax.networks import VelocityField
from dipod_jax.policies.base import POLICIES, ChainPolicy, ConditionalPolicy, FieldPolicy, PolicyOptions
from dipod_jax.types import Evidence, FieldScores, Params, Scores, Trace, make_scores

NEWTON_ITERATIONS = 10
NEWTON_TOLERANCE = 1e-4


@POLICIES.register("flow")
@dataclass(frozen=True)
class FlowOptions(PolicyOptions):
    """A flow-matching policy: a velocity field, its sampler, and the (t, eps) draws of its bound."""

    has_bound: ClassVar[bool] = True
    has_field: ClassVar[bool] = True
    samplers: ClassVar[tuple[str, ...]] = ("euler", "midpoint", "heun")
    """the values of `sampler` that the family's steps can be"""

    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    """nonlinearity between layers"""
    num_steps: int = 10
    """K, steps of the sampler, >= 1"""
    sampler: Literal["euler", "midpoint", "heun"] = "euler"
    """integration method; midpoint and heun evaluate the network twice a step"""
    num_draws: int = 8
    """N, (t, eps) draws stored per action, >= 1"""
    draws_at_once: int | None = None
    """how many of the N draws are scored at a time, a divisor of N; the activations of each group are recomputed for
    the gradient, so that memory does not grow with N. None: all at once"""
    draws: Literal["monte-carlo", "grid", "stratified", "antithetic", "gauss-legendre"] = "grid"
    """times of the draws: uniform on [0, 1] (monte-carlo), the sampler's own (grid), stratified, in antithetic pairs,
    or the nodes of a quadrature, with its weights (gauss-legendre)"""
    loss_form: Literal["velocity", "eps", "elbo"] = "eps"
    """which prediction's squared error is the CFM loss (the network itself always predicts a velocity); or elbo: the
    velocity error with the weight of the true ELBO, summed over dimensions, at log-uniform t, so that ratios are those
    of ELBOs in nats"""
    elbo_cutoff: float = 0.05
    """delta, the smallest t for loss-form elbo, 0 < delta < 1"""
    reduction: Literal["mean", "sum", "sqrt"] = "mean"
    """how the loss combines action dimensions: mean, sum, or sqrt for sum / sqrt(d)"""
    time_embedding_size: int = 8
    """number of time features, cos and sin of t 2^k, even, >= 2"""
    output_scale: float = 0.25
    """factor on the network's output, > 0"""
    base_velocity: Literal["zero", "gaussian"] = field(default="zero", metadata={"earlier": "zero"})
    """what the network's output is added to: zero, or (gaussian) the velocity (2 t - 1) / (t^2 + (1 - t)^2) x_t of
    actions N(0, I), with which a policy that has learned nothing has a tight bound"""
    action_clip: float | None = None
    """bound on |pre-tanh action| before `action_noise` is added, > 0; none: unbounded"""
    action_noise: float = 0.0
    """standard deviation of Gaussian noise added to the pre-tanh action in training, >= 0"""

    def validate(self) -> None:
        super().validate()
        check = Checked(self, "policy")
        check.number("num_steps", "num_draws", low=1)
        check.number("action_noise")
        check.require(self.sampler in self.samplers, "sampler", f"with a {self.name} policy {', '.join(self.samplers)}")
        check.positive("output_scale", "action_clip")
        check.require(0.0 < self.elbo_cutoff < 1.0, "elbo_cutoff", "more than 0 and less than 1")
        check.require(
            self.loss_form != "elbo" or self.draws != "grid", "draws", "not grid for the form elbo: use stratified"
        )
        even = self.time_embedding_size >= 2 and self.time_embedding_size % 2 == 0
        check.require(even, "time_embedding_size", "an even number >= 2")
        paired = self.draws != "antithetic" or self.num_draws % 2 == 0
        check.require(paired, "num_draws", "an even number, since antithetic draws come in pairs")
        check.number("draws_at_once", low=1)
        grouped = self.draws_at_once is None or self.num_draws % self.draws_at_once == 0
        check.require(grouped, "draws_at_once", f"a divisor of policy.num-draws = {self.num_draws}")

    def check_exact_action(self) -> None:
        for name in ("action_clip", "action_noise"):
            what = "unset where the objective asks for an exact likelihood: such an action has none under the flow"
            Checked(self, "policy").require(not getattr(self, name), name, what)

    def explore(self, key: jax.Array, action: jax.Array) -> jax.Array:
        """Clipped to +-`action_clip`, then perturbed by `action_noise`, where they are set."""
        if self.action_clip is not None:
            action = jnp.clip(action, -self.action_clip, self.action_clip)
        if self.action_noise > 0:
            action = action + self.action_noise * jax.random.normal(key, action.shape)
        return action

    def build(self, observation_size: int, action_size: int) -> FlowPolicy:
        return FlowPolicy(self, observation_size, action_size)


class FlowPolicy:
    """pi(a | obs): the image of N(0, I) under K steps of dx/dt = v(x, t | obs) from t = 1 to t = 0.

    The step is Euler's, the midpoint rule's or Heun's, depending on the options. The action is pre-tanh; the
    environment is given tanh(a).
    """

    score_name = "cfm_loss"
    chain: ChainPolicy | None = None
    conditional: ConditionalPolicy | None = None

    def __init__(self, options: FlowOptions, observation_size: int, action_size: int):
        self.options, self.observation_size, self.action_size = options, observation_size, action_size
        self.noise_shape, self.method = (action_size,), options.sampler
        # The meter's CFM loss is the velocity's where training's is the ELBO itself.
        form = "velocity" if options.loss_form == "elbo" else options.loss_form
        self.cfm = CfmSpec(form, options.reduction, options.draws, options.num_draws)
        self.times = time_grid(options.num_steps, kind="uniform")  # (K+1,)
        self.evaluation_times = evaluation_times(self.times, method=options.sampler)
        self.draw_weights = draw_weights(options.draws, options.num_draws)  # (N,)
        self._field = VelocityField(
            action_size, options.hidden_sizes, options.activation, options.time_embedding_size, options.output_scale
        )

    @property
    def field(self) -> FieldPolicy:
        """Itself."""
        return self

    def init(self, key: jax.Array) -> Params:
        """Parameters of the velocity field."""
        return self._field.init(key, jnp.zeros(self.observation_size), jnp.zeros(self.action_size), jnp.zeros(()))

    def velocity(self, params: Params, obs: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """(..., d) velocity at x_t (..., d) and t (...) for obs (..., O)."""
        learned: Any = self._field.apply(params, obs, x_t, t)
        return learned if self.options.base_velocity == "zero" else learned + gaussian_velocity(1.0, obs, x_t, t)

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Pre-tanh action (..., d), where the sampler ends, and the base noise (..., d), where it starts."""
        field = lambda x, t: self.velocity(params, obs, x, t)
        return integrate(field, noise, self.times, method=self.options.sampler), noise

    def ends(self, params: Params, obs: jax.Array, action: jax.Array, trace: Trace) -> tuple[jax.Array, jax.Array]:
        """The base noise and the action."""
        del params, obs
        return trace, action

    def pre_image(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """(..., d) base noise that the sampler maps to an action (..., d); NaN if none is found."""
        flat = lambda x: x.reshape(-1, x.shape[-1])
        found = invert(
            self.velocity,
            params,
            flat(obs),
            flat(action),
            self.times,
            method=self.method,
            max_iterations=NEWTON_ITERATIONS,
            tolerance=NEWTON_TOLERANCE,
        )
        return jnp.where(found.converged[:, None], found.path[0], jnp.nan).reshape(action.shape)

    def squash(self, action: jax.Array) -> jax.Array:
        """tanh."""
        return jnp.tanh(action)

    def sample_draws(self, key: jax.Array, batch_shape: tuple[int, ...]) -> Draws:
        """N pairs (t, eps) per action: t (..., N), eps (..., N, d); t is log-uniform for loss form `elbo`."""
        c = self.options
        draws = sample_draws(
            key, batch_shape, c.num_draws, self.action_size, placement=c.draws, times=self.evaluation_times
        )
        return to_log_uniform(draws, delta=c.elbo_cutoff) if c.loss_form == "elbo" else draws

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> Evidence:
        """The (t, eps) draws at which the current, acting and reference policies are all scored."""
        del params, trace
        return self.sample_draws(key, obs.shape[:-1])

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: Evidence) -> Scores:
        """(..., N) CFM loss of each draw, which is also the bound."""
        loss, field = self.score_draws(params, obs, action, evidence)
        return make_scores(loss, weight=self.draw_weights, bound=loss @ self.draw_weights, field=field)

    def score_draws(
        self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws
    ) -> tuple[jax.Array, FieldScores]:
        """(..., N) CFM loss of each draw, and the field there."""
        loss, velocity = self._losses(params, obs, action, draws)
        denoised = interpolate(action, draws.t, draws.eps) - draws.t[..., None] * velocity
        return loss, FieldScores(jnp.broadcast_to(self.draw_weights, draws.t.shape), draws.t, velocity, denoised)

    def bound(self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws) -> tuple[jax.Array, FieldScores]:
        """(...) the bound, the mean CFM loss over the draws, and the field there."""
        loss, field = self.score_draws(params, obs, action, draws)
        return loss @ self.draw_weights, field

    def cfm_loss(self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws) -> jax.Array:
        """(..., N) CFM loss of each draw, in the form and reduction of the options, or the draw's share of the negative
        ELBO."""
        return self._losses(params, obs, action, draws)[0]

    def _losses(self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws) -> tuple[jax.Array, jax.Array]:
        """Losses (..., N) and the velocities (..., N, d) that they are of, `draws_at_once` draws at a time."""
        group, batch = self.options.draws_at_once, draws.t.shape[:-1]
        if group is None:
            return self._group_losses(params, obs, action, draws)
        axis = len(batch)
        split = lambda x: jnp.moveaxis(x.reshape(*batch, -1, group, *x.shape[axis + 1 :]), axis, 0)
        join = lambda x: jnp.moveaxis(x, 0, axis).reshape(*batch, -1, *x.shape[axis + 2 :])
        one = jax.checkpoint(lambda part: self._group_losses(params, obs, action, part))
        return jax.tree.map(join, jax.lax.map(one, jax.tree.map(split, draws)))

    def _group_losses(
        self, params: Params, obs: jax.Array, action: jax.Array, draws: Draws
    ) -> tuple[jax.Array, jax.Array]:
        x_t = interpolate(action, draws.t, draws.eps)
        velocity = self.velocity(params, obs[..., None, :], x_t, draws.t)
        options, is_elbo = self.options, self.options.loss_form == "elbo"
        form, reduction = ("velocity", "sum") if is_elbo else (options.loss_form, options.reduction)
        loss = cfm_loss(velocity, action, draws, form=form, reduction=reduction)
        return (elbo_loss(loss, draws.t, delta=options.elbo_cutoff) if is_elbo else loss), velocity

    def entropy(self, params: Params, obs: jax.Array, noise: jax.Array) -> None:
        """None: no estimate of a flow's entropy has the gradient of the entropy."""
        del params, obs, noise
