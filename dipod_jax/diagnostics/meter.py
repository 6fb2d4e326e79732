"""The drift meter: every number of this package from one batch, as one flat dict for a logger."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds import CfmSpec, ConditionedVelocityFn, draw_weights
from dipod_jax.diagnostics.actions import action_metrics
from dipod_jax.diagnostics.alignment import alignment_metrics, exact_policy_gradient
from dipod_jax.diagnostics.batch import DriftBatch, MeterSettings, draw_losses
from dipod_jax.diagnostics.gap import elbo_of_actions, floor_metrics, gap_metrics
from dipod_jax.diagnostics.refit import refit, refit_metrics
from dipod_jax.types import Params


def drift_metrics(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    batch: DriftBatch,
    key: Array,
    *,
    times: Array,
    loss_fn: Callable[[Any], Array] | None = None,
    settings: MeterSettings | None = None,
) -> dict[str, Array]:
    """Measure how tight the bound is and where its gradient points.

    Pure; jit it with ``velocity_fn``, ``loss_fn`` and ``settings`` closed over. Must be called with the parameters
    that drew the batch, before they are updated: ``drift/off_policy``, the share of stored actions that
    ``integrate(base_noise)`` does not reproduce, shows a violation. Clipped and perturbed actions count, so with action
    noise it is 1 and carries no information: the exact gradient is then evaluated at the sampler's end points, and the
    objective's at the stored actions.

    Args:
      velocity_fn, params: the policy.
      batch: ``DriftBatch`` of B samples, B even and at least 4. Shuffled here.
      key: PRNG key, consumed.
      times: (K+1,) the acting sampler's grid.
      loss_fn: the objective's loss of *this batch* as a function of the parameters, including its bonus and clipping,
        without the critic's loss; None leaves out the cosine with the proxy.
      settings: ``MeterSettings``; None for the defaults.

    Returns:
      Flat dict of float scalars, keys ``drift/...``. During a collapse some are inf or NaN; none is replaced.

    Raises:
      ValueError: if B is odd.
    """
    settings = MeterSettings() if settings is None else settings
    chex.assert_equal_shape([batch.base_noise, batch.action])
    key_order, key_elbo, key_actions, key_refit = jax.random.split(key, 4)
    # Rollouts are ordered by time and environment; halves and slices must be samples of all of it.
    order = jax.random.permutation(key_order, batch.obs.shape[0])
    batch = jax.tree.map(lambda x: x[order], batch)
    num_fine_steps = settings.fine_factor * (times.shape[0] - 1)

    first, second, likelihood = exact_policy_gradient(
        velocity_fn,
        params,
        batch.obs,
        batch.base_noise,
        batch.advantage,
        times=times,
        method=settings.method,
        chunk_size=settings.chunk_size,
    )
    bound = elbo_of_actions(
        velocity_fn,
        params,
        batch.obs,
        likelihood.action,
        key_elbo,
        delta=settings.delta,
        num_draws=settings.num_elbo_draws,
    )
    metrics = gap_metrics(likelihood, bound, batch.advantage)
    metrics |= floor_metrics(
        velocity_fn,
        params,
        batch.obs,
        likelihood,
        num_samples=settings.num_floor_samples,
        num_fine_steps=num_fine_steps,
    )
    metrics |= action_metrics(
        velocity_fn,
        params,
        batch.obs[: settings.num_states],
        key_actions,
        action_size=batch.action.shape[-1],
        times=times,
        method=settings.method,
        num_actions=settings.num_actions,
        num_fine_steps=num_fine_steps,
        delta=settings.delta,
    )
    metrics["drift/gap_above_floor"] = metrics["drift/gap"] - metrics["drift/floor"] - metrics["drift/floor_cutoff"]
    metrics["drift/off_policy"] = _mismatch(batch.action, likelihood.action)
    losses = draw_losses(
        velocity_fn, params, batch.obs, batch.action, batch.draws, form=settings.form, reduction=settings.reduction
    )
    metrics["drift/cfm_loss"] = jnp.mean(losses @ draw_weights(settings.placement, losses.shape[-1]))
    metrics |= alignment_metrics(None if loss_fn is None else jax.grad(loss_fn)(params), first, second)
    if settings.refit_steps > 0:
        metrics |= _refit_metrics(velocity_fn, params, batch.obs, likelihood.action, key_refit, times, settings)
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def _refit_metrics(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    action: Array,
    key: Array,
    times: Array,
    settings: MeterSettings,
) -> dict[str, Array]:
    """Refit in the states of one half of the batch, measure on the other half."""
    key_train, key_test = jax.random.split(key)
    spec = CfmSpec(settings.form, settings.reduction, settings.placement, settings.refit_draws)
    half = obs.shape[0] // 2
    refitted = refit(
        velocity_fn,
        params,
        obs[:half],
        key_train,
        action_size=action.shape[-1],
        times=times,
        method=settings.method,
        spec=spec,
        num_steps=settings.refit_steps,
        learning_rate=settings.refit_learning_rate,
    )
    return refit_metrics(
        velocity_fn,
        params,
        refitted,
        obs[half:],
        action[half:],
        key_test,
        times=times,
        method=settings.method,
        spec=spec,
    )


def _mismatch(stored: Array, acted: Array) -> Array:
    """Share of (B, d) stored actions that differ from the actions taken by more than rounding."""
    different = jnp.max(jnp.abs(stored - acted), axis=-1) > 1e-3 * (1.0 + jnp.max(jnp.abs(acted), axis=-1))
    return jnp.mean(different)
