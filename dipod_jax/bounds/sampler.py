"""The acting policy's sampler: K explicit Runge-Kutta steps from noise (t = 1) to an action (t = 0)."""

from collections.abc import Callable
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

VelocityFn = Callable[[Array, Array], Array]
"""``velocity_fn(x (..., d), t scalar) -> (..., d)``, conditioning and parameters closed over."""

Method = Literal["euler", "midpoint", "heun"]
GridKind = Literal["uniform", "refined"]
METHODS: tuple[str, ...] = get_args(Method)
GRID_KINDS: tuple[str, ...] = get_args(GridKind)
EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2}


def time_grid(num_steps: int, *, kind: str, data_std: float = 0.3) -> Array:
    """Decreasing sampler times 1 = t_0 > ... > t_K = 0.

    - ``uniform``: t_k = 1 - k/K (FPO, FPO++).
    - ``refined``: ``t = s tan(theta) / (1 + s tan(theta))`` with theta uniform on [0, pi/2] and s = ``data_std``. For
      actions of standard deviation s < 1 the steps shrink towards t = 0.

    The reason: for data N(0, s^2) the sampler moves ``sigma_t = sqrt((1-t)^2 s^2 + t^2)``; one Euler step of size dt
    loses the fraction ``dt^2 sigma''/(2 sigma) = (s dt / sigma^2)^2 / 2`` of it, and the grid that spreads the loss
    evenly has ``dt ~ sigma^2``, which is uniform in theta. The contraction is then ``exp(-pi^2 / (8 K))`` to leading
    order whatever s is (.884 at K = 10), where the uniform grid has .40 at s = .05 and .82 at s = .3. It shrinks the
    contraction of Euler, but does not remove it; a second-order method does.

    Args:
      num_steps: K >= 1.
      kind: one of ``GRID_KINDS``.
      data_std: s > 0, the spread of the actions for which the refined grid is designed; ignored by ``uniform``.

    Returns:
      (K+1,) float32.

    Raises:
      ValueError: for an unknown kind, ``num_steps < 1`` or a ``data_std`` that is not positive and finite.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps} must be at least 1")
    if kind == "uniform":
        return jnp.asarray(1.0 - np.arange(num_steps + 1) / num_steps, jnp.float32)
    if kind != "refined":
        raise ValueError(f"grid kind {kind!r} is not one of {', '.join(GRID_KINDS)}")
    if not (np.isfinite(data_std) and data_std > 0.0):
        raise ValueError(f"data_std {data_std} must be positive and finite")
    theta = np.linspace(np.pi / 2, 0.0, num_steps + 1)
    times = data_std * np.sin(theta) / (np.cos(theta) + data_std * np.sin(theta))
    times[0], times[-1] = 1.0, 0.0
    return jnp.asarray(times, jnp.float32)


def evaluation_times(times: Array, *, method: str) -> Array:
    """The times at which the sampler evaluates the velocity, where a CFM loss must be accurate to help it.

    A midpoint step moves only by the velocity at its middle; a loss on the times of the grid would leave exactly those
    velocities untrained.

    Args:
      times: (K+1,) the sampler's decreasing grid.
      method: one of ``METHODS``.

    Returns:
      Decreasing: (K,) t_k for Euler, (2K,) t_k and (t_k + t_{k+1}) / 2 for midpoint, (K+1,) the grid for Heun.

    Raises:
      ValueError: for an unknown method.
    """
    if method == "euler":
        return times[:-1]
    if method == "midpoint":
        return jnp.stack([times[:-1], 0.5 * (times[:-1] + times[1:])], axis=1).reshape(-1)
    if method == "heun":
        return times
    raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")


def slope(velocity_fn: VelocityFn, x: Array, t: Array, t_next: Array, *, method: str) -> Array:
    """The velocity that carries x from t to t_next in one step: at t (Euler, order 1), at the middle (midpoint, 2), or
    the mean of both ends' (Heun, 2).

    Args:
      velocity_fn: x (..., d), t (...) -> (..., d).
      x: (..., d) at time t.
      t, t_next: scalars, or times that broadcast against (...).
      method: one of ``METHODS``.

    Returns:
      (..., d).

    Raises:
      ValueError: for an unknown method.
    """
    dt = t_next - t
    column = jnp.asarray(dt)[..., None]
    if method == "euler":
        return velocity_fn(x, t)
    if method == "midpoint":
        return velocity_fn(x + 0.5 * column * velocity_fn(x, t), t + 0.5 * dt)
    if method == "heun":
        first = velocity_fn(x, t)
        return 0.5 * (first + velocity_fn(x + column * first, t_next))
    raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")


def step(velocity_fn: VelocityFn, x: Array, t: Array, t_next: Array, *, method: str) -> Array:
    """One sampler step from t to t_next, ``x + (t_next - t) slope``; arguments and errors are those of ``slope``.

    Returns:
      (..., d) at time t_next.
    """
    return x + jnp.asarray(t_next - t)[..., None] * slope(velocity_fn, x, t, t_next, method=method)


def integrate(
    velocity_fn: VelocityFn, base_noise: Array, times: Array, *, method: str, return_path: bool = False
) -> Array:
    """Carry base noise along the flow to an action: ``x_{k+1} = x_k + dt_k v(x_k, t_k)`` for Euler, K steps in one
    ``lax.scan``.

    Args:
      velocity_fn: x (..., d), t scalar -> (..., d).
      base_noise: (..., d) x_1 at t = 1.
      times: (K+1,) decreasing, 1 to 0.
      method: one of ``METHODS``; Heun and midpoint cost two evaluations per step.
      return_path: keep every state.

    Returns:
      The pre-tanh action (..., d), or with ``return_path`` the path (K+1, ..., d) from base noise to action. Neither
      tanh nor a clip is applied.

    Raises:
      ValueError: for an unknown method.
    """
    chex.assert_rank(times, 1)

    def body(x: Array, interval: tuple[Array, Array]) -> tuple[Array, Array | None]:
        x_next = step(velocity_fn, x, *interval, method=method)
        return x_next, x_next if return_path else None

    action, states = jax.lax.scan(body, base_noise, (times[:-1], times[1:]))
    if return_path:
        assert states is not None  # the scan kept them; for the type checker
        return jnp.concatenate([base_noise[None], states])
    return action
