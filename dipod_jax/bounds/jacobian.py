"""One sampler step and its Jacobian for a batch of points, and linear algebra for the small matrices this gives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds.sampler import step

ConditionedVelocityFn = Callable[[Any, Array, Array, Array], Array]
"""``velocity_fn(params, obs (B, O), x (B, d), t scalar) -> (B, d)``, each row from its own obs and x alone."""


def step_with_jacobian(
    velocity_fn: ConditionedVelocityFn,
    params: Any,
    obs: Array,
    x: Array,
    t: Array,
    t_next: Array,
    *,
    method: str,
) -> tuple[Array, Array]:
    """A sampler step and ``D = d x_next / d x`` of each row, by d forward-mode products (``I + dt dv/dx`` for Euler).

    Args:
      velocity_fn: as ``ConditionedVelocityFn``; rows must be independent (no batch normalisation).
      params: any pytree.
      obs: (B, O).
      x: (B, d) at time t.
      t, t_next: scalars.
      method: one of ``sampler.METHODS``.

    Returns:
      x_next (B, d) and D (B, d, d), with D[b, i, j] = d x_next[b, i] / d x[b, j]. It is dense: meant for d up to about
      20.
    """

    def advance(x: Array) -> Array:
        return step(lambda y, s: velocity_fn(params, obs, y, s), x, t, t_next, method=method)

    def push(tangent: Array) -> tuple[Array, Array]:
        return jax.jvp(advance, (x,), (jnp.broadcast_to(tangent, x.shape),))

    return jax.vmap(push, out_axes=(None, -1))(jnp.eye(x.shape[-1], dtype=x.dtype))


def determinant(matrix: Array) -> Array:
    """Determinant of (..., d, d) -> (...): closed form for d <= 3, LU above (a LAPACK call per matrix)."""
    m = matrix
    match m.shape[-1]:
        case 1:
            return m[..., 0, 0]
        case 2:
            return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
        case 3:
            return jnp.sum(m[..., 0, :] * jnp.cross(m[..., 1, :], m[..., 2, :]), axis=-1)
        case _:
            return jnp.linalg.det(m)


def solve(matrix: Array, vector: Array) -> Array:
    """``matrix^-1 vector`` for (..., d, d) and (..., d): closed form for d <= 2. A singular matrix gives non-finite
    rows."""
    m = matrix
    match m.shape[-1]:
        case 1:
            return vector / m[..., 0]
        case 2:
            x = m[..., 1, 1] * vector[..., 0] - m[..., 0, 1] * vector[..., 1]
            y = m[..., 0, 0] * vector[..., 1] - m[..., 1, 0] * vector[..., 0]
            return jnp.stack([x, y], axis=-1) / determinant(m)[..., None]
        case _:
            return jnp.linalg.solve(m, vector[..., None])[..., 0]
