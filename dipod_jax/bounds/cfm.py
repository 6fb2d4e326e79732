"""The conditional flow-matching loss in three forms, and exact conversions between the quantities a network may
predict."""

from typing import Literal, NamedTuple, get_args

import chex
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds.draws import Draws

Form = Literal["velocity", "eps", "x0"]
Reduction = Literal["mean", "sum", "sqrt"]
FORMS: tuple[str, ...] = get_args(Form)
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


class CfmSpec(NamedTuple):
    """Which CFM loss: the words of ``cfm_loss`` and ``sample_draws``."""

    form: str
    reduction: str
    placement: str
    num_draws: int


def interpolate(action: Array, t: Array, eps: Array) -> Array:
    """The noised action ``x_t = (1 - t) a + t eps``.

    Args:
      action: (..., d) pre-tanh action a.
      t: (..., N) time in [0, 1], 1 is noise.
      eps: (..., N, d) standard normal noise.

    Returns:
      (..., N, d) points at which the velocity is needed. It does not evaluate it.
    """
    chex.assert_shape(t, (*action.shape[:-1], None))
    chex.assert_shape(eps, (*t.shape, action.shape[-1]))
    t = t[..., None]  # (..., N, 1)
    return (1.0 - t) * action[..., None, :] + t * eps


def cfm_loss(velocity: Array, action: Array, draws: Draws, *, form: str, reduction: str) -> Array:
    """Conditional flow-matching loss of each draw, a loss: lower means more likely.

    With target ``v = eps - a`` and error ``e = v_hat - v`` the three forms are, exactly,

        velocity:  R[e^2]        eps:  R[(eps_hat - eps)^2] = (1-t)^2 R[e^2]        x0:  R[(x0_hat - a)^2] = t^2 R[e^2]

    and R is the mean over action dimensions (FPO's code), their sum (FPO eq. 8; what an ELBO needs) or sum / sqrt(d)
    (FPO++'s code). The ``eps`` form is FPO's default (``u_but_supervise_as_eps``); at t = 1 it is identically 0, the
    ``x0`` form at t = 0. The errors are scaled, not recomputed from predictions, so that neither form loses digits by
    cancellation.

    Args:
      velocity: (..., N, d) prediction v_hat at ``interpolate(action, *draws)``.
      action: (..., d) pre-tanh action.
      draws: t (..., N), eps (..., N, d).
      form: one of ``FORMS``.
      reduction: one of ``REDUCTIONS``.

    Returns:
      (..., N) losses, unweighted; it does not average over draws.

    Raises:
      ValueError: for an unknown form or reduction.
    """
    chex.assert_equal_shape([velocity, draws.eps])
    chex.assert_shape(draws.t, velocity.shape[:-1])
    chex.assert_shape(action, (*velocity.shape[:-2], velocity.shape[-1]))
    error = velocity - (draws.eps - action[..., None, :])
    return form_weight(draws.t, form) * reduce_action_axis(jnp.square(error), reduction)


def gaussian_velocity(std: float, obs: Array, x: Array, t: Array) -> Array:
    """The optimal velocity for actions ~ N(0, std^2 I): ``x (t - (1-t) s^2) / ((1-t)^2 s^2 + t^2)`` (docs/bounds.md,
    Formulas).

    Args:
      std: s > 0, in place of the parameters of a policy.
      obs: (..., O), ignored.
      x: (..., d).
      t: scalar or (...).

    Returns:
      (..., d).
    """
    del obs
    t = t[..., None] if jnp.ndim(t) else t
    return x * (t - (1.0 - t) * std**2) / ((1.0 - t) ** 2 * std**2 + t**2)


def form_weight(t: Array, form: str) -> Array:
    """The factor between a form's loss and the velocity loss: 1, (1-t)^2 or t^2; shape of t."""
    if form == "velocity":
        return jnp.ones_like(t)
    if form == "eps":
        return jnp.square(1.0 - t)
    if form == "x0":
        return jnp.square(t)
    raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")


def reduce_action_axis(squared_error: Array, reduction: str) -> Array:
    """Reduce (..., d) over its last axis: ``mean``, ``sum`` or ``sqrt`` (sum / sqrt(d))."""
    if reduction == "mean":
        return jnp.mean(squared_error, axis=-1)
    if reduction == "sum":
        return jnp.sum(squared_error, axis=-1)
    if reduction == "sqrt":
        return jnp.sum(squared_error, axis=-1) / jnp.sqrt(float(squared_error.shape[-1]))
    raise ValueError(f"reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")


def convert_prediction(prediction: Array, x_t: Array, t: Array, *, source: str, target: str) -> Array:
    """Express a prediction of velocity, noise or clean action as another of the three.

    From ``x_t = (1-t) x0 + t eps`` and ``v = eps - x0``:

        eps = x_t + (1-t) v      x0 = x_t - t v      v = (eps - x_t)/(1-t) = (x_t - x0)/t
        x0 = (x_t - t eps)/(1-t)                     eps = (x_t - (1-t) x0)/t

    A noise prediction says nothing about the action at t = 1, nor a clean-action prediction about the noise at t = 0:
    there the result is deliberately not finite. Nothing is clamped.

    Args:
      prediction: (..., d) in the form ``source``.
      x_t: (..., d) the noised action it was made at.
      t: (...) its time.
      source, target: each one of ``FORMS``.

    Returns:
      (..., d) the prediction in the form ``target``.

    Raises:
      ValueError: for an unknown form.
    """
    for name in (source, target):
        if name not in FORMS:
            raise ValueError(f"form {name!r} is not one of {', '.join(FORMS)}")
    chex.assert_equal_shape([prediction, x_t])
    chex.assert_shape(t, x_t.shape[:-1])
    t = t[..., None]
    match source, target:
        case "velocity", "eps":
            return x_t + (1.0 - t) * prediction
        case "velocity", "x0":
            return x_t - t * prediction
        case "eps", "velocity":
            return (prediction - x_t) / (1.0 - t)
        case "x0", "velocity":
            return (x_t - prediction) / t
        case "eps", "x0":
            return (x_t - t * prediction) / (1.0 - t)
        case "x0", "eps":
            return (x_t - (1.0 - t) * prediction) / t
        case _:
            return prediction
