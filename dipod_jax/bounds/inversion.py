"""Inverting the K-step sampler: the base noise that leads to an action, found step by step, with every failure
reported."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds.jacobian import ConditionedVelocityFn, solve, step_with_jacobian
from dipod_jax.bounds.sampler import step

Solver = Literal["newton", "fixed-point"]
SOLVERS: tuple[str, ...] = get_args(Solver)


class Inversion(NamedTuple):
    """The path that leads to an action, and how accurate it is."""

    path: Array
    """(K+1, B, d) states from base noise (first) to the given action (last)."""
    residual: Array
    """(B,) largest |step(x_k) - x_{k+1}| / (1 + |x_{k+1}|) over the K steps, max norm over dimensions."""
    converged: Array
    """(B,) bool, residual <= tolerance (a NaN has not converged)."""
    iterations: Array
    """() int32, iterations summed over the K steps; a step stops when its whole batch has converged."""


class _Search(NamedTuple):
    x: Array  # (B, d) best point so far
    value: Array  # (B, d) step(x)
    direction: Array  # (B, d) full correction from x
    residual: Array  # (B,)
    scale: Array  # (B,) fraction of the correction tried next
    iteration: Array  # ()


def invert(
    velocity_fn: ConditionedVelocityFn,
    params: Any,
    obs: Array,
    action: Array,
    times: Array,
    *,
    method: str = "euler",
    solver: str = "newton",
    guess_path: Array | None = None,
    max_iterations: int = 20,
    tolerance: float = 1e-5,
) -> Inversion:
    """Invert the sampler: solve ``step_k(x_k) = x_{k+1}`` for x_k, from x_K = action back to x_0 = base noise.

    ``newton`` corrects by ``D^-1 (x_{k+1} - step(x))``, halving a correction that does not lower the residual;
    ``fixed-point`` iterates ``x <- x_{k+1} - (step(x) - x)``, which contracts where ``|dt| Lip(v) < 1``, the condition
    under which a step is injective. Both start at ``guess_path[k] + x_{k+1} - guess_path[k+1]``, or without a guess at
    ``x_{k+1} - (step(x_{k+1}) - x_{k+1})``.

    Where the sampler folds space an action has several pre-images; this finds one of them and cannot know of the
    others. It is not differentiable: see ``likelihood.log_prob_of_action``.

    Args:
      velocity_fn: ``ConditionedVelocityFn``.
      params: any pytree.
      obs: (B, O).
      action: (B, d) pre-tanh action, not clipped (a clipped one is an action the sampler need not reach).
      times: (K+1,) decreasing.
      method: one of ``sampler.METHODS``.
      solver: one of ``SOLVERS``.
      guess_path: (K+1, B, d) a nearby path, such as the one stored with the action; None for a cold start.
      max_iterations: per step, >= 1.
      tolerance: on the relative residual, > 0; 1e-5 is about what float32 reaches.

    Returns:
      ``Inversion``.

    Raises:
      ValueError: for an unknown solver or a number out of range.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver {solver!r} is not one of {', '.join(SOLVERS)}")
    if max_iterations < 1 or not tolerance > 0.0:
        raise ValueError(f"max_iterations {max_iterations} must be at least 1 and tolerance {tolerance} positive")
    chex.assert_rank([obs, action, times], [2, 2, 1])
    if guess_path is not None:
        chex.assert_shape(guess_path, (times.shape[0], *action.shape))

    find = partial(
        _invert_step,
        velocity_fn,
        params,
        obs,
        method=method,
        solver=solver,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )

    def body(x_next: Array, inputs: tuple[Array, Array, Array | None]) -> tuple[Array, tuple[Array, Array, Array]]:
        t, t_next, shift = inputs
        x, residual, iterations = find(x_next, t, t_next, None if shift is None else x_next + shift)
        return x, (x, residual, iterations)

    shifts = None if guess_path is None else guess_path[:-1] - guess_path[1:]
    _, (states, residuals, iterations) = jax.lax.scan(body, action, (times[:-1], times[1:], shifts), reverse=True)
    residual = jnp.max(residuals, axis=0)
    return Inversion(
        path=jnp.concatenate([states, action[None]]),
        residual=residual,
        converged=residual <= tolerance,
        iterations=jnp.sum(iterations),
    )


def _invert_step(
    velocity_fn: ConditionedVelocityFn,
    params: Any,
    obs: Array,
    x_next: Array,
    t: Array,
    t_next: Array,
    start: Array | None,
    *,
    method: str,
    solver: str,
    max_iterations: int,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    """Solve step(x) = x_next for one k: x (B, d), its residual (B,) and the iterations used ()."""

    def evaluate(x: Array) -> tuple[Array, Array, Array]:
        if solver == "newton":
            value, jacobian = step_with_jacobian(velocity_fn, params, obs, x, t, t_next, method=method)
            direction = solve(jacobian, x_next - value)
        else:
            value = step(lambda y, s: velocity_fn(params, obs, y, s), x, t, t_next, method=method)
            direction = x_next - value
        error = jnp.max(jnp.abs(value - x_next), axis=-1) / (1.0 + jnp.max(jnp.abs(x_next), axis=-1))
        return value, direction, error

    def begin(x: Array) -> _Search:
        value, direction, residual = evaluate(x)
        return _Search(x, value, direction, residual, jnp.ones_like(residual), jnp.int32(0))

    def unfinished(search: _Search) -> Array:
        return jnp.any(~(search.residual <= tolerance)) & (search.iteration < max_iterations)

    def improve(search: _Search) -> _Search:
        trial = search.x + search.scale[:, None] * search.direction
        value, direction, residual = evaluate(trial)
        # A row that has converged stays: its neighbours' iterations must not move it, so that the result of one
        # row does not depend on which others share its batch.
        better = (residual < search.residual) & ~(search.residual <= tolerance)
        pick = partial(jnp.where, better[:, None])
        return _Search(
            pick(trial, search.x),
            pick(value, search.value),
            pick(direction, search.direction),
            jnp.where(better, residual, search.residual),
            jnp.where(better, 1.0, 0.5 * search.scale),
            search.iteration + 1,
        )

    if start is None:
        start = 2.0 * x_next - step(lambda y, s: velocity_fn(params, obs, y, s), x_next, t, t_next, method=method)
    search = jax.lax.while_loop(unfinished, improve, begin(start))
    return search.x, search.residual, search.iteration
