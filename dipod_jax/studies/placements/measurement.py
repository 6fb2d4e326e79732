"""Bias and noise of the estimates that each placement gives."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dipod_jax.bounds import PLACEMENTS, Draws, draw_weights, elbo, sample_draws, to_log_uniform
from dipod_jax.diagnostics import draw_losses
from dipod_jax.studies.placements.options import Config
from dipod_jax.studies.placements.policies import OnPolicy
from dipod_jax.types import Params

COLUMNS = {
    "elbo_std": "ELBO std",
    "elbo_bias": "ELBO bias",
    "elbo_gradient_noise": "ELBO gradient noise",
    "loss_std": "loss std",
    "loss_bias": "loss bias",
    "loss_gradient_noise": "loss gradient noise",
}
REFERENCE_DRAWS = 64


def measure(config: Config, policy: OnPolicy) -> list[dict[str, Any]]:
    """One row per placement and time measure; training's loss is drawn uniformly in t alone."""
    placing = _Placing(config, policy)
    measures = {name: ("uniform",) if name == "grid" else ("uniform", "log-uniform") for name in PLACEMENTS}
    return [placing.row(placement, measure) for placement in PLACEMENTS for measure in measures[placement]]


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row as a table shows it."""
    numbers = {title: "" if row[name] is None else f"{row[name]:.4f}" for name, title in COLUMNS.items()}
    return {"placement": row["placement"], "t": row["time_measure"], **numbers}


def noise_over_signal(gradients: jax.Array) -> float:
    """Of R gradients (R, P): sqrt(trace of their covariance / |their mean|^2), the mean's own noise taken out."""
    variance = float(jnp.sum(jnp.var(gradients, axis=0, ddof=1)))
    signal = float(jnp.sum(jnp.square(jnp.mean(gradients, axis=0)))) - variance / gradients.shape[0]
    return math.sqrt(variance / signal) if signal > 0 else math.inf


class _Placing:
    """Redraws of one policy's estimates, the same keys for every placement, and the values they are to have."""

    def __init__(self, config: Config, policy: OnPolicy):
        self.config, self.policy = config, policy
        key_reference, key_redraws, key_advantage = jax.random.split(jax.random.key(config.seed + 1), 3)
        self.keys = jax.random.split(key_redraws, config.redraws)
        self.advantage = jax.random.normal(key_advantage, (config.batch,))
        mean = lambda key: [
            x.mean() for x in self.estimates(policy.params, key, "stratified", "log-uniform", REFERENCE_DRAWS)
        ]
        reference_keys = jax.random.split(key_reference, 4 * config.redraws)
        reference = jax.jit(lambda keys: jax.lax.map(mean, keys))(reference_keys)
        self.reference_bound, self.reference_loss = (float(x.mean()) for x in reference)

    def estimates(
        self, params: Params, key: jax.Array, placement: str, measure: str, num_draws: int
    ) -> tuple[jax.Array, jax.Array]:
        """(B,) ELBO and (B,) training loss (eps form, mean over dimensions) from one set of draws each."""
        policy, delta, action_size = self.policy, self.config.delta, self.policy.action.shape[-1]
        weights = draw_weights(placement, num_draws)

        def sample(t_min: float) -> Draws:
            shape = policy.action.shape[:1]
            return sample_draws(
                key, shape, num_draws, action_size, placement=placement, times=policy.times, t_min=t_min
            )

        def losses(draws: Draws, form: str, reduction: str) -> jax.Array:
            action = policy.action
            return draw_losses(policy.velocity_fn, params, policy.obs, action, draws, form=form, reduction=reduction)

        plain = sample(0.0)
        if measure == "log-uniform":
            draws = to_log_uniform(plain, delta=delta)
        else:
            draws = plain if placement == "grid" else sample(delta)
        velocity_loss = losses(draws, "velocity", "sum")
        bound = elbo(
            velocity_loss, draws.t, action_size=action_size, delta=delta, time_measure=measure, weights=weights
        )
        return bound, losses(plain, "eps", "mean") @ weights

    def row(self, placement: str, measure: str) -> dict[str, Any]:
        """One placement's biases, standard deviations of one action's estimate, and gradients' noise."""
        params, num_draws = self.policy.params, self.config.num_draws
        value = lambda p, key, i: jnp.mean(self.advantage * self.estimates(p, key, placement, measure, num_draws)[i])

        def one(key: jax.Array) -> tuple[jax.Array, ...]:
            flat = lambda i: ravel_pytree(jax.grad(value)(params, key, i))[0]
            return *self.estimates(params, key, placement, measure, num_draws), flat(0), flat(1)

        bound, loss, bound_gradient, loss_gradient = jax.jit(lambda keys: jax.lax.map(one, keys))(self.keys)
        std = lambda x: float(jnp.sqrt(jnp.mean(jnp.var(x, axis=0, ddof=1))))
        of_bound = {
            "elbo_std": std(bound),
            "elbo_bias": float(jnp.mean(bound) - self.reference_bound),
            "elbo_bias_se": float(jnp.std(jnp.mean(bound, axis=1), ddof=1)) / math.sqrt(len(self.keys)),
            "elbo_gradient_noise": noise_over_signal(bound_gradient),
        }
        of_loss = {
            "loss_std": std(loss),
            "loss_bias": float(jnp.mean(loss) - self.reference_loss),
            "loss_gradient_noise": noise_over_signal(loss_gradient),
        }
        if measure != "uniform":
            of_loss = dict.fromkeys(of_loss)
        return {"placement": placement, "time_measure": measure, **of_bound, **of_loss}
