"""The exact log-likelihood of the acting K-step sampler, and its gradient at a fixed action without differentiating an
inverse.

The sampler is a chain of maps ``x_{k+1} = step_k(x_k)`` with Jacobians ``D_k`` (``I + dt_k dv/dx`` for Euler), so
where every step is injective

    log pi(a | s) = log N(x_0; 0, I) - sum_k log |det D_k(x_k)|,      a = x_K pre-tanh.

Its derivatives at a fixed action follow from the implicit function theorem applied to each step, x_k =
step_k^-1(x_{k+1}):

    mu_0 = grad log N(x_0) = -x_0,      mu_{k+1} = D_k^-T (mu_k - grad_x log|det D_k|(x_k))
    grad_a log pi = mu_K,      grad_theta log pi = - sum_k grad_theta [ log|det D_k|(x_k) + step_k(x_k) . mu_{k+1} ]

with the path and mu held constant. Unrolled over the chain this is ``grad_theta L(theta, x) - grad_theta [Phi(x) .
grad_a l]`` of docs/bounds.md; step by step it needs only d x d solves, and memory for the path alone.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dipod_jax.bounds.inversion import invert
from dipod_jax.bounds.jacobian import ConditionedVelocityFn, determinant, solve, step_with_jacobian
from dipod_jax.bounds.sampler import integrate, step


class ExactLikelihood(NamedTuple):
    """log pi of each action, with diagnostics that tell whether to trust it. Average only over ``valid``."""

    log_prob: Array
    """(B,) log density of the pre-tanh action; NaN where not ``valid``, with a zero gradient there."""
    path: Array
    """(K+1, B, d) states from base noise to action."""
    valid: Array
    """(B,) bool: the path was found and no step has det <= 0 on it."""
    converged: Array
    """(B,) bool: the inversion met its tolerance; if the base noise was given, the path is finite."""
    folded_steps: Array
    """(B,) int32: steps whose determinant is not positive (NaN counts as such): there the map folds space."""
    min_det: Array
    """(B,) smallest determinant over the K steps."""
    max_deviation: Array
    """(B,) largest Frobenius norm of D_k - I. Below 1 in all of space the sampler is injective; here only on this
    path."""

    @property
    def action(self) -> Array:
        """(B, d) the pre-tanh action."""
        return self.path[-1]


def log_prob_of_noise(
    velocity_fn: ConditionedVelocityFn,
    params: Any,
    obs: Array,
    base_noise: Array,
    times: Array,
    *,
    method: str = "euler",
) -> ExactLikelihood:
    """log pi of the action that the sampler makes from this base noise; no inversion, exact up to rounding.

    ``log_prob`` differentiates *at the fixed action* ``a = integrate(base_noise)``: its gradient with respect to
    ``params`` is the score ``grad_theta log pi_theta(a)``, so that ``grad mean(advantage * log_prob)`` is the policy
    gradient. It is not the derivative of log pi along the moving action at fixed noise, and it has no derivative with
    respect to ``base_noise``.

    Args:
      velocity_fn: ``ConditionedVelocityFn``; must not close over traced arrays (pass them in params or obs).
      params: any pytree.
      obs: (B, O).
      base_noise: (B, d) x_1, the state at t = 1.
      times: (K+1,) decreasing, 1 to 0.
      method: one of ``sampler.METHODS``.

    Returns:
      ``ExactLikelihood``.
    """
    chex.assert_rank([obs, base_noise, times], [2, 2, 1])
    field = partial(velocity_fn, params, obs)
    path = jax.lax.stop_gradient(integrate(field, base_noise, times, method=method, return_path=True))
    return _likelihood_on_path(velocity_fn, method, params, obs, path[-1], path, times, jnp.full(obs.shape[0], True))


def log_prob_of_action(
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
) -> ExactLikelihood:
    """log pi_theta(a) of a given action under the current parameters: invert the sampler, then change variables.

    Differentiable (once, reverse mode) in ``params``, ``obs`` and ``action`` through the implicit function theorem;
    the solver is not differentiated. For exact-likelihood PPO over several epochs: ``ratio = exp(log_prob -
    log_prob_old)`` with ``guess_path`` the path stored at the rollout, averaged over ``valid``.

    Args:
      velocity_fn, params, obs, times, method: as in ``log_prob_of_noise``.
      action: (B, d) pre-tanh, unclipped.
      solver, guess_path, max_iterations, tolerance: as in ``inversion.invert``.

    Returns:
      ``ExactLikelihood``; its ``path`` is the best guess for the next call. It does not look for further pre-images of
      an action.

    Raises:
      ValueError: as ``inversion.invert``.
    """
    found = invert(
        velocity_fn,
        *jax.lax.stop_gradient((params, obs, action)),
        times,
        method=method,
        solver=solver,
        guess_path=None if guess_path is None else jax.lax.stop_gradient(guess_path),
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    return _likelihood_on_path(velocity_fn, method, params, obs, action, found.path, times, found.converged)


def tanh_log_prob(log_prob: Array, action: Array) -> Array:
    """log density of ``tanh(a)`` from that of a: ``log pi(a) - sum_d 2 (log 2 - a - softplus(-2 a))``.

    The correction is ``log(1 - tanh(a)^2)``, finite for every finite a. It cancels in ratios.

    Args:
      log_prob: (...) log density of the pre-tanh action.
      action: (..., d) pre-tanh action.

    Returns:
      (...) log density on (-1, 1)^d.
    """
    chex.assert_shape(action, (*log_prob.shape, None))
    return log_prob - jnp.sum(2.0 * (jnp.log(2.0) - action - jax.nn.softplus(-2.0 * action)), axis=-1)


def standard_normal_log_prob(x: Array) -> Array:
    """``log N(x; 0, I)`` of (..., d) -> (...)."""
    return -0.5 * jnp.sum(jnp.square(x), axis=-1) - 0.5 * x.shape[-1] * np.log(2.0 * np.pi)


def _likelihood_on_path(
    velocity_fn: ConditionedVelocityFn,
    method: str,
    params: Any,
    obs: Array,
    action: Array,
    path: Array,
    times: Array,
    converged: Array,
) -> ExactLikelihood:
    converged = converged & jnp.all(jnp.isfinite(path), axis=(0, 2))
    # A lost row runs through everything below with a weight of 0; finite states keep that 0 from becoming 0 * inf.
    states = jnp.where(converged[None, :, None], path[:-1], 0.0)
    result: Any = _log_prob_on_path(velocity_fn, method, params, obs, action, states, times, converged)
    log_prob, (folded, min_det, max_deviation) = result
    valid = converged & (folded == 0)
    return ExactLikelihood(
        log_prob=jnp.where(valid, log_prob, jnp.nan),
        path=path,
        valid=valid,
        converged=converged,
        folded_steps=folded,
        min_det=jnp.where(converged, min_det, jnp.nan),
        max_deviation=jnp.where(converged, max_deviation, jnp.nan),
    )


_Health = tuple[Array, Array, Array]


def _log_abs_det(
    velocity_fn: ConditionedVelocityFn,
    method: str,
    interval: tuple[Array, Array],
    params: Any,
    obs: Array,
    x: Array,
) -> tuple[Array, Array]:
    """log|det D| (B,) of one step, and D (B, d, d)."""
    _, jacobian = step_with_jacobian(velocity_fn, params, obs, x, *interval, method=method)
    size = jnp.abs(determinant(jacobian))
    # Double where: a vanishing determinant is reported as a fold and must not send inf * 0 backwards.
    regular = size > jnp.finfo(size.dtype).tiny
    return jnp.where(regular, jnp.log(jnp.where(regular, size, 1.0)), -jnp.inf), jacobian


def _advance(
    velocity_fn: ConditionedVelocityFn, method: str, interval: tuple[Array, Array], x: Array, params: Any, obs: Array
) -> Array:
    """One sampler step (B, d) as a function of its conditioning."""
    return step(lambda y, t: velocity_fn(params, obs, y, t), x, *interval, method=method)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_prob_on_path(
    velocity_fn: ConditionedVelocityFn,
    method: str,
    params: Any,
    obs: Array,
    action: Array,
    states: Array,
    times: Array,
    converged: Array,
) -> tuple[Array, _Health]:
    """log pi of ``action`` (B, d), given the states x_0 ... x_{K-1} (K, B, d) that lead to it, with its diagnostics."""
    del action, converged
    identity = jnp.eye(states.shape[-1], dtype=states.dtype)

    def body(total: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        x, t, t_next = inputs
        log_abs_det, jacobian = _log_abs_det(velocity_fn, method, (t, t_next), params, obs, x)
        deviation = jnp.linalg.norm(jacobian - identity, axis=(-2, -1))
        return total - log_abs_det, (determinant(jacobian), deviation)

    start = standard_normal_log_prob(states[0])
    log_prob, (det, deviation) = jax.lax.scan(body, start, (states, times[:-1], times[1:]))
    folded = jnp.sum(~(det > 0.0), axis=0, dtype=jnp.int32)
    return log_prob, (folded, jnp.min(det, axis=0), jnp.max(deviation, axis=0))


def _forward(velocity_fn, method, params, obs, action, states, times, converged):
    result: Any = _log_prob_on_path(velocity_fn, method, params, obs, action, states, times, converged)
    _, (folded, _, _) = result
    return result, (params, obs, states, times, converged & (folded == 0))


def _backward(velocity_fn, method, saved, cotangents):
    """The recursion for mu in the module's docstring, every mu multiplied by the incoming cotangent.

    Each step is linearised anew: what is stored is the path, not K Jacobians with their residuals.
    """
    params, obs, states, times, valid = saved
    weight = jnp.where(valid, cotangents[0], 0.0)  # (B,) invalid points are left out of every gradient
    identity = jnp.eye(states.shape[-1], dtype=states.dtype)
    add = partial(jax.tree.map, jnp.add)

    def body(carry: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, None]:
        mu, gradient = carry
        x, t, t_next = inputs
        log_det = partial(_log_abs_det, velocity_fn, method, (t, t_next))
        _, pull, jacobian = jax.vjp(log_det, params, obs, x, has_aux=True)
        *from_det, grad_x = pull(-weight)
        # A row that is left out still runs through the solve: an identity there, or its inf would meet the 0.
        transposed = jnp.where(valid[:, None, None], jnp.swapaxes(jacobian, -1, -2), identity)
        mu = solve(transposed, mu + grad_x)
        _, pull = jax.vjp(partial(_advance, velocity_fn, method, (t, t_next), x), params, obs)
        return (mu, add(add(gradient, tuple(from_det)), pull(-mu))), None

    start = (-weight[:, None] * states[0], jax.tree.map(jnp.zeros_like, (params, obs)))
    (grad_action, (grad_params, grad_obs)), _ = jax.lax.scan(body, start, (states, times[:-1], times[1:]))
    return grad_params, grad_obs, grad_action, None, None, None


_log_prob_on_path.defvjp(_forward, _backward)
