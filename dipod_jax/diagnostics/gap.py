"""How far the bound has drifted from the likelihood: log pi - ELBO, and the part of it that no training can remove."""

import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds import (
    ConditionedVelocityFn,
    ExactLikelihood,
    draw_weights,
    elbo,
    ode_log_prob_of_action,
    sample_draws,
    time_grid,
    to_log_uniform,
)
from dipod_jax.diagnostics.batch import (
    draw_losses,
    masked_correlation,
    masked_mean,
    masked_mean_and_error,
)
from dipod_jax.types import Params

QUANTILES = {"median": 0.5, "q05": 0.05, "q25": 0.25, "q75": 0.75, "q95": 0.95}


def elbo_of_actions(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    action: Array,
    key: Array,
    *,
    delta: float,
    num_draws: int,
) -> Array:
    """An unbiased estimate (B,) of each action's ELBO in nats: ``num_draws`` fresh draws, stratified in log t."""
    draws = sample_draws(key, obs.shape[:1], num_draws, action.shape[-1], placement="stratified")
    draws = to_log_uniform(draws, delta=delta)
    losses = draw_losses(velocity_fn, params, obs, action, draws, form="velocity", reduction="sum")
    weights = draw_weights("stratified", num_draws)
    return elbo(losses, draws.t, action_size=action.shape[-1], delta=delta, time_measure="log-uniform", weights=weights)


def gap_metrics(likelihood: ExactLikelihood, bound: Array, advantage: Array) -> dict[str, Array]:
    """``drift/gap = E[log pi(a|s) - ELBO(a|s)]`` over valid samples, with its spread and its split by the advantage's
    sign.

    Quantiles and the median are over single samples and so include the noise of the ELBO's draws; the mean does not,
    and its standard error accounts for it. The mean is heavy-tailed while a policy collapses: look at the median as
    well. The gap may be negative (docs/bounds.md).

    Args:
      likelihood: of B actions.
      bound: (B,) their ELBO.
      advantage: (B,).

    Returns:
      Flat dict of scalars; NaN if no sample is valid (or none has that sign).
    """
    gap, valid = likelihood.log_prob - bound, likelihood.valid
    mean, error = masked_mean_and_error(gap, valid)
    quantiles = jnp.nanquantile(jnp.where(valid, gap, jnp.nan), jnp.asarray(list(QUANTILES.values())))
    return {
        "drift/gap": mean,
        "drift/gap_se": error,
        **{f"drift/gap_{name}": quantiles[i] for i, name in enumerate(QUANTILES)},
        "drift/gap_positive_advantage": masked_mean(gap, valid & (advantage >= 0.0)),
        "drift/gap_negative_advantage": masked_mean(gap, valid & (advantage < 0.0)),
        "drift/correlation": masked_correlation(likelihood.log_prob, bound, valid),
        "drift/log_prob": masked_mean(likelihood.log_prob, valid),
        "drift/elbo": masked_mean(bound, valid),
        "drift/noninvertible": 1.0 - jnp.mean(valid),
        "drift/noninvertible_steps": jnp.mean(likelihood.folded_steps) / (likelihood.path.shape[0] - 1),
        "drift/step_deviation": jnp.nanmax(likelihood.max_deviation),
    }


def floor_metrics(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    likelihood: ExactLikelihood,
    *,
    num_samples: int,
    num_fine_steps: int,
) -> dict[str, Array]:
    """``drift/floor = E[log pi_K(a) - log p_ODE(a)]``: the part of the gap that comes from acting in K steps
    (docs/bounds.md).

    The ELBO is tight, at best, for the ODE's density; a K-step sampler has a different density even when the field is
    perfect. The same actions are evaluated under the same field, once by the exact likelihood of the sampler and once
    with ``num_fine_steps`` Heun steps. The first ``num_samples`` rows are used: shuffle before.

    Returns:
      ``drift/floor`` and its standard error, over valid samples. It does not include the part due to the cut-off,
      ``drift/floor_cutoff``.
    """
    rows = slice(num_samples)
    fine = ode_log_prob_of_action(
        velocity_fn,
        params,
        obs[rows],
        likelihood.action[rows],
        time_grid(num_fine_steps, kind="uniform").astype(obs.dtype),
    )
    mean, error = masked_mean_and_error(likelihood.log_prob[rows] - fine, likelihood.valid[rows])
    return {"drift/floor": mean, "drift/floor_se": error}
