"""The likelihood in the limit of infinitely many sampler steps: log pi without the effect of discretisation."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds.jacobian import ConditionedVelocityFn
from dipod_jax.bounds.likelihood import standard_normal_log_prob
from dipod_jax.bounds.sampler import integrate


def ode_log_prob_of_action(
    velocity_fn: ConditionedVelocityFn,
    params: Any,
    obs: Array,
    action: Array,
    times: Array,
    *,
    method: str = "heun",
) -> Array:
    """log-likelihood of an action under the flow's ODE, by the instantaneous change of variables.

    ``log p_0(a) = log N(x_1; 0, I) + int_0^1 div v(x_t, t) dt`` (docs/bounds.md; arXiv 1806.07366, Theorem 1),
    where x_t runs from the action at t = 0 up to the noise at t = 1. The divergence is exact: d forward-mode products,
    no Hutchinson noise. The ODE cannot fold, so nothing has to be inverted; what remains is the error of ``method`` on
    ``times``, of second order for Heun.

    Args:
      velocity_fn: ``ConditionedVelocityFn``.
      params: any pytree.
      obs: (B, O).
      action: (B, d) pre-tanh.
      times: (K+1,) the usual decreasing grid 1 to 0, traversed backwards; use a finer one than the sampler's.
      method: one of ``sampler.METHODS``.

    Returns:
      (B,) nats. This is not the likelihood of the K-step sampler that acts: see ``likelihood``.
    """
    chex.assert_rank([obs, action, times], [2, 2, 1])
    basis = jnp.eye(action.shape[-1], dtype=action.dtype)

    def augmented(state: Array, t: Array) -> Array:
        """(B, d+1): velocity of x, followed by the rate of the log-density along the path."""
        x = state[:, :-1]

        def push(direction: Array) -> tuple[Array, Array]:
            tangent = jnp.broadcast_to(direction, x.shape)
            velocity, change = jax.jvp(lambda y: velocity_fn(params, obs, y, t), (x,), (tangent,))
            return velocity, change @ direction

        velocity, diagonal = jax.vmap(push, out_axes=(None, 0))(basis)  # (B, d), (d, B)
        return jnp.concatenate([velocity, jnp.sum(diagonal, axis=0)[:, None]], axis=-1)

    start = jnp.concatenate([action, jnp.zeros_like(action[:, :1])], axis=-1)
    end = integrate(augmented, start, times[::-1], method=method)
    return standard_normal_log_prob(end[:, :-1]) + end[:, -1]
