"""What the policy does in a state: spread, saturation, and how much of the spread the K-step sampler loses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds import ConditionedVelocityFn, cutoff_floor, integrate, time_grid
from dipod_jax.types import Params, Trace

SATURATED = 0.99


def acting_std(
    sample: Callable[[Params, Array, Array], tuple[Array, Trace]], params: Params, obs: Array, noise: Array
) -> Array:
    """Mean over S states and d dimensions of the standard deviation of a policy's actions, pre-tanh, with every noise
    that it draws them by: of a plain flow `drift/action_std`, of a chain or of noise at the end more than its field's.

    Args:
      sample, params: the policy's.
      obs: (S, O).
      noise: (M, S, ...) standard normal, M >= 2.

    Returns:
      ().
    """
    actions, _ = sample(params, jnp.broadcast_to(obs, (len(noise), *obs.shape)), noise)
    return jnp.mean(jnp.std(actions, axis=0, ddof=1))


def sample_actions(
    velocity_fn: ConditionedVelocityFn, params: Params, obs: Array, base_noise: Array, times: Array, *, method: str
) -> Array:
    """Pre-tanh actions (M, S, d) from base noise (M, S, d) in S states (S, O), as one batch of M S rows."""
    num_actions, num_states, action_size = base_noise.shape
    rows = jnp.broadcast_to(obs, (num_actions, *obs.shape)).reshape(num_actions * num_states, -1)
    actions = integrate(
        lambda x, t: velocity_fn(params, rows, x, t), base_noise.reshape(-1, action_size), times, method=method
    )
    return actions.reshape(base_noise.shape)


def action_metrics(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    key: Array,
    *,
    action_size: int,
    times: Array,
    method: str,
    num_actions: int,
    num_fine_steps: int,
    delta: float,
) -> dict[str, Array]:
    """Statistics of M actions drawn in each of S states, pre-tanh unless stated otherwise.

    ``drift/contraction`` is the geometric mean over states and dimensions of (standard deviation under the acting
    sampler) / (standard deviation under ``num_fine_steps`` Heun steps of the same field, from the same base noise): 1
    without discretisation error, .82 for the optimal field of N(0, .3^2) at K = 10 Euler steps (docs/bounds.md).

    Args:
      velocity_fn, params: the policy.
      obs: (S, O).
      key: PRNG key, consumed.
      action_size: d.
      times, method: the acting sampler.
      num_actions: M >= 2.
      num_fine_steps: of the reference.
      delta: cut-off of the ELBO, for ``drift/floor_cutoff`` = ``bounds.cutoff_floor`` at these standard deviations,
        exact for Gaussian actions.

    Returns:
      Flat dict of scalars. They cannot reveal several modes, to which a standard deviation is blind.
    """
    noise = jax.random.normal(key, (num_actions, obs.shape[0], action_size), obs.dtype)
    actions = sample_actions(velocity_fn, params, obs, noise, times, method=method)
    fine_times = time_grid(num_fine_steps, kind="uniform").astype(obs.dtype)
    fine = sample_actions(velocity_fn, params, obs, noise, fine_times, method="heun")
    std, fine_std = (jnp.std(a, axis=0, ddof=1) for a in (actions, fine))  # (S, d)
    return {
        "drift/action_std": jnp.mean(std),
        "drift/action_std_min": jnp.min(std),
        "drift/action_std_tanh": jnp.mean(jnp.std(jnp.tanh(actions), axis=0, ddof=1)),
        "drift/action_abs": jnp.mean(jnp.abs(actions)),
        "drift/saturation": jnp.mean(jnp.abs(jnp.tanh(actions)) > SATURATED),
        "drift/contraction": jnp.exp(jnp.mean(jnp.log(std) - jnp.log(fine_std))),
        "drift/floor_cutoff": jnp.mean(cutoff_floor(std, delta=delta)),
    }
