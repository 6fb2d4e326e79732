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
grad_a l]`` of the project's methods reference, section 6.3b; step by step it is one batch of K B rows instead of a
sequence, and needs only d x d solves.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dipod_jax.bounds.inversion import invert
from dipod_jax.bounds.jacobian import ConditionedVelocityFn, determinant, path_jacobians, solve
from dipod_jax.bounds.sampler import integrate


class ExactLikelihood(NamedTuple):
    """log pi of each action and what tells whether to believe it. Average only over ``valid``."""

    log_prob: Array
    """(B,) log density of the pre-tanh action; NaN where not ``valid``, with a zero gradient there."""
    path: Array
    """(K+1, B, d) states from base noise to action."""
    valid: Array
    """(B,) bool: the path was found and no step has det <= 0 on it."""
    converged: Array
    """(B,) bool: the inversion met its tolerance; when the base noise was given, that the path is finite."""
    folded_steps: Array
    """(B,) int32: steps whose determinant is not positive (a NaN counts): there the map folds space."""
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
    """log pi of the action that this base noise becomes; no inversion, exact up to rounding.

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
      ``ExactLikelihood``; its ``path`` is the next call's best guess. It does not find further pre-images of an action.

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


def _chain(
    velocity_fn: ConditionedVelocityFn, method: str, params: Any, obs: Array, states: Array, times: Array
) -> tuple[tuple[Array, Array], Array]:
    """(log|det D_k| (K, B), step_k(x_k) (K, B, d)), and D (K, B, d, d) as auxiliary output."""
    x_next, jacobian = path_jacobians(velocity_fn, params, obs, states, times, method=method)
    size = jnp.abs(determinant(jacobian))
    # Double where: a vanishing determinant is reported as a fold and must not send inf * 0 backwards.
    regular = size > jnp.finfo(size.dtype).tiny
    log_abs_det = jnp.where(regular, jnp.log(jnp.where(regular, size, 1.0)), -jnp.inf)
    return (log_abs_det, x_next), jacobian


def _value(log_abs_det: Array, jacobian: Array, base_noise: Array) -> tuple[Array, _Health]:
    det = determinant(jacobian)
    deviation = jnp.linalg.norm(jacobian - jnp.eye(base_noise.shape[-1], dtype=jacobian.dtype), axis=(-2, -1))
    health = (jnp.sum(~(det > 0.0), axis=0, dtype=jnp.int32), jnp.min(det, axis=0), jnp.max(deviation, axis=0))
    return standard_normal_log_prob(base_noise) - jnp.sum(log_abs_det, axis=0), health


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
    """log pi of ``action`` (B, d), given the states x_0 ... x_{K-1} (K, B, d) that lead to it; its health besides."""
    del action, converged
    (log_abs_det, _), jacobian = _chain(velocity_fn, method, params, obs, states, times)
    return _value(log_abs_det, jacobian, states[0])


def _forward(velocity_fn, method, params, obs, action, states, times, converged):
    del action
    chain = partial(_chain, velocity_fn, method, times=times)
    (log_abs_det, _), pull, jacobian = jax.vjp(chain, params, obs, states, has_aux=True)
    value, health = _value(log_abs_det, jacobian, states[0])
    return (value, health), (pull, jacobian, states[0], converged & (health[0] == 0))


def _backward(velocity_fn, method, saved, cotangents):
    """The recursion for mu in the module's docstring, with every mu multiplied by the incoming cotangent."""
    del velocity_fn, method
    pull, jacobian, base_noise, valid = saved
    weight = jnp.where(valid, cotangents[0], 0.0)  # (B,) invalid points are left out of every gradient
    for_dets = jnp.broadcast_to(-weight, jacobian.shape[:2])  # (K, B)
    for_steps = jnp.zeros(jacobian.shape[:3], jacobian.dtype)  # (K, B, d)
    params_dets, obs_dets, states_dets = pull((for_dets, for_steps))

    # A row that is left out still runs through the solves: an identity there, or its inf would meet the 0.
    identity = jnp.eye(base_noise.shape[-1], dtype=jacobian.dtype)
    transposed = jnp.where(valid[None, :, None, None], jnp.swapaxes(jacobian, -1, -2), identity)

    def body(mu: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, minus_grad_log_det = inputs
        mu = solve(matrix, mu + minus_grad_log_det)
        return mu, mu

    grad_action, adjoints = jax.lax.scan(body, -weight[:, None] * base_noise, (transposed, states_dets))
    params_steps, obs_steps, _ = pull((jnp.zeros_like(for_dets), -adjoints))
    add = partial(jax.tree.map, jnp.add)
    return add(params_dets, params_steps), add(obs_dets, obs_steps), grad_action, None, None, None


_log_prob_on_path.defvjp(_forward, _backward)
