"""How much CFM loss a short refit on the policy's own actions removes: a measure of looseness that needs no
constants."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dipod_jax.bounds import CfmSpec, ConditionedVelocityFn, draw_weights, evaluation_times, integrate, sample_draws
from dipod_jax.diagnostics.batch import draw_losses, masked_mean_and_error
from dipod_jax.types import Params


def refit(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    key: Array,
    *,
    action_size: int,
    times: Array,
    method: str,
    spec: CfmSpec,
    num_steps: int,
    learning_rate: float,
) -> Any:
    """A copy of the policy after ``num_steps`` of self-distillation: CFM on fresh actions of the *frozen* policy.

    Every step draws new base noise, actions and (t, eps), so that only the states can be overfitted. The optimiser is
    Adam with a learning rate that falls linearly to 0, so that little noise remains at an optimum.

    Args:
      velocity_fn, params: the policy; params are not changed.
      obs: (B, O) states to act in.
      key: PRNG key, consumed.
      action_size: d.
      times, method: the acting sampler.
      spec: the loss.
      num_steps: >= 0.
      learning_rate: initial, > 0.

    Returns:
      The refitted parameters.
    """
    optimizer = optax.adam(optax.linear_schedule(learning_rate, 0.0, num_steps))
    weights = draw_weights(spec.placement, spec.num_draws)
    grid = evaluation_times(times, method=method)

    def loss_fn(candidate: Any, action: Array, key: Array) -> Array:
        draws = sample_draws(key, obs.shape[:1], spec.num_draws, action_size, placement=spec.placement, times=grid)
        losses = draw_losses(velocity_fn, candidate, obs, action, draws, form=spec.form, reduction=spec.reduction)
        return jnp.mean(losses @ weights)

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        candidate, opt_state = carry
        key_noise, key_draws = jax.random.split(key)
        noise = jax.random.normal(key_noise, (obs.shape[0], action_size), obs.dtype)
        action = integrate(partial(velocity_fn, params, obs), noise, times, method=method)
        gradient = jax.grad(loss_fn)(candidate, action, key_draws)
        updates, opt_state = optimizer.update(gradient, opt_state, candidate)
        return (optax.apply_updates(candidate, updates), opt_state), None

    (refitted, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, num_steps))
    return refitted


def refit_metrics(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    refitted: Any,
    obs: Array,
    action: Array,
    key: Array,
    *,
    times: Array,
    method: str,
    spec: CfmSpec,
) -> dict[str, Array]:
    """``drift/refit_gain = E[l(theta) - l(theta_refit)]`` on held-out states and actions, both losses on the same
    fresh draws.

    0 if the field is already optimal for its own actions; negative if the refit only added noise. Looseness that a few
    Adam steps cannot remove is not seen, so this is a lower bound of it, in units of the loss.

    Args:
      velocity_fn, params, refitted: the policy and its refitted copy.
      obs, action: (B, O), (B, d) not used by ``refit``; unclipped actions drawn with ``params``.
      key: PRNG key, consumed.
      times, method: the acting sampler.
      spec: the loss.

    Returns:
      The gain, its standard error, and the loss before the refit.
    """
    grid = evaluation_times(times, method=method)
    draws = sample_draws(key, obs.shape[:1], spec.num_draws, action.shape[-1], placement=spec.placement, times=grid)
    weights = draw_weights(spec.placement, spec.num_draws)
    before, after = (
        draw_losses(velocity_fn, candidate, obs, action, draws, form=spec.form, reduction=spec.reduction) @ weights
        for candidate in (params, refitted)
    )
    gain, error = masked_mean_and_error(before - after, jnp.isfinite(before - after))
    return {"drift/refit_gain": gain, "drift/refit_gain_se": error, "drift/refit_loss": jnp.mean(before)}
