"""From CFM losses to an evidence lower bound: weightings, constants, and whether the result is a bound at all."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dipod_jax.bounds.cfm import FORMS
from dipod_jax.bounds.draws import Draws

WEIGHTINGS = ("uniform", "elbo")
TIME_MEASURES = ("uniform", "log-uniform")


class WeightingStatus(NamedTuple):
    """Whether a weighted CFM loss bounds a likelihood, and which one."""

    is_elbo: bool
    """Minus the weighted loss is, up to constants, a (weighted) evidence lower bound."""
    statement: str
    """One sentence for a log or a table."""


def loss_weight(t: Array, *, weighting: str, form: str) -> Array:
    """The factor w(t) that turns a CFM loss of this form into the integrand of the weighting.

    ``uniform`` is 1: the loss as trained. ``elbo`` is the true ELBO weight, which is (1-t)/t on the velocity loss
    (docs/bounds.md; AWM eq. 2), hence 1/(t (1-t)) on the eps loss and (1-t)/t^3 on the x0 loss. It diverges at
    t = 0, and on the eps loss at t = 1 as well: keep t >= delta, or draw t log-uniformly (``to_log_uniform``).

    Args:
      t: (...) in (0, 1].
      weighting: one of ``WEIGHTINGS``.
      form: one of ``cfm.FORMS``.

    Returns:
      (...) weights. The reduction is up to the caller: an ELBO needs the sum over action dimensions.

    Raises:
      ValueError: for an unknown weighting or form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    if weighting == "uniform":
        return jnp.ones_like(t)
    if weighting != "elbo":
        raise ValueError(f"weighting {weighting!r} is not one of {', '.join(WEIGHTINGS)}")
    if form == "velocity":
        return (1.0 - t) / t
    return 1.0 / (t * (1.0 - t)) if form == "eps" else (1.0 - t) / t**3


def weighting_status(*, weighting: str, form: str) -> WeightingStatus:
    """Whether a weighting of a form of the CFM loss is an ELBO.

    Kingma & Gao (arXiv 2303.00848, Theorem 1): with ``1/2 E_t[w(t) (-lambda'(t)) |eps - eps_hat|^2]`` minus the loss
    is an ELBO of the clean data if w = 1, a weighted mean of ELBOs of noise-perturbed data if w does not decrease with
    the noise level, and nothing otherwise. Here ``w = t/(1-t)`` times the weight on the velocity loss, and whether it
    decreases is computed, not looked up.

    Raises:
      ValueError: for an unknown weighting or form.
    """
    t = np.linspace(0.001, 0.999, 999)
    form_factor = {"velocity": np.ones_like(t), "eps": (1.0 - t) ** 2, "x0": t**2}
    with jax.ensure_compile_time_eval():  # a statement about the rule, also when asked inside a traced function
        weight = np.asarray(loss_weight(jnp.asarray(t), weighting=weighting, form=form), np.float64)
    implied = weight * form_factor[form] * t / (1.0 - t)
    if np.allclose(implied, 1.0, rtol=1e-4):
        return WeightingStatus(True, "the ELBO of the clean action, with the constants of elbo()")
    if np.all(np.diff(implied) >= -1e-6 * implied[1:]):
        return WeightingStatus(True, "a weighted mean of ELBOs of noise-perturbed actions, constants unknown")
    return WeightingStatus(False, "no ELBO of anything: its weight in log-SNR is not monotone")


def to_log_uniform(draws: Draws, *, delta: float) -> Draws:
    """Move draws with t uniform on [0, 1] to t log-uniform on [delta, 1]: ``t -> delta^(1-t)``; eps stays.

    Every placement except the grid keeps its structure (strata, pairs, nodes) in log t. The ELBO's weight under this
    measure is ``(1-t) log(1/delta)``, which is bounded; under uniform t it is (1-t)/t.

    Raises:
      ValueError: if delta is not in (0, 1).
    """
    _check_delta(delta)
    return Draws(jnp.exp((1.0 - draws.t) * np.log(delta)), draws.eps)


def elbo(
    velocity_loss: Array, t: Array, *, action_size: int, delta: float, time_measure: str, weights: Array | None = None
) -> Array:
    """The evidence lower bound of log p(a) with cut-off delta and all constants.

    ``-ELBO(a) = int_delta^1 (1-t)/t E_eps|v_hat - v|^2 dt + (d/2) log(2 pi e) + d log(delta / (1-delta))``
    (docs/bounds.md: diffusion term, Gaussian reconstruction at t = delta, zero prior term at t = 1). For data
    N(0, s^2 I) and the optimal field its mean is the entropy plus ``(d/2) log(1 + delta^2 / (s (1-delta))^2)``, the
    cost of the cut-off (``cutoff_floor``).

    It bounds the likelihood of the *generative diffusion* with this denoiser, whose actions carry the noise of the
    cut-off twice (variance 2 (delta / (1-delta))^2: far in the tails it may lie above the noiseless density), and not
    that of the ODE or of its K-step sampler: the difference to ``likelihood`` can have either sign, and is small where
    the field is the score of its own samples.

    Args:
      velocity_loss: (..., N) velocity form, summed over action dimensions.
      t: (..., N) times drawn from the time measure on [delta, 1].
      action_size: d.
      delta: in (0, 1), smallest time.
      time_measure: ``uniform`` (``sample_draws(..., t_min=delta)``) or ``log-uniform`` (``to_log_uniform``), whose
        estimator has bounded weight.
      weights: (N,) summing to 1, ``draw_weights``; None for 1/N.

    Returns:
      (...) nats, an unbiased estimate (except with Gauss-Legendre placement).

    Raises:
      ValueError: for an unknown time measure or delta out of range.
    """
    _check_delta(delta)
    chex.assert_equal_shape([velocity_loss, t])
    if time_measure == "uniform":
        integrand = (1.0 - delta) * (1.0 - t) / t * velocity_loss
    elif time_measure == "log-uniform":
        integrand = elbo_loss(velocity_loss, t, delta=delta)
    else:
        raise ValueError(f"time measure {time_measure!r} is not one of {', '.join(TIME_MEASURES)}")
    diffusion = jnp.mean(integrand, axis=-1) if weights is None else integrand @ weights
    return -(diffusion + elbo_constant(action_size, delta))


def elbo_loss(velocity_loss: Array, t: Array, *, delta: float) -> Array:
    """Each draw's share of the negative ELBO without its constants: ``(1-t) log(1/delta) |v_hat - v|^2``.

    Against t log-uniform on [delta, 1] (``to_log_uniform``) the mean over draws is an unbiased estimate of
    ``int_delta^1 (1-t)/t E_eps|v_hat - v|^2 dt``: differences of it are differences of the ELBO in nats.

    Args:
      velocity_loss: (..., N) velocity form, summed over action dimensions.
      t: (..., N) log-uniform on [delta, 1].
      delta: in (0, 1), smallest time.

    Returns:
      (..., N) nats.
    """
    _check_delta(delta)
    chex.assert_equal_shape([velocity_loss, t])
    return -np.log(delta) * (1.0 - t) * velocity_loss


def elbo_constant(action_size: int, delta: float) -> float:
    """``(d/2) log(2 pi e) + d log(delta / (1 - delta))``: what the negative ELBO adds to its integral."""
    _check_delta(delta)
    return 0.5 * action_size * float(np.log(2.0 * np.pi * np.e)) + action_size * float(np.log(delta / (1.0 - delta)))


def cutoff_floor(std: Array, *, delta: float) -> Array:
    """The looseness that the cut-off alone causes for a Gaussian action: ``1/2 sum_d log(1 + (delta / ((1-delta)
    s_d))^2)``.

    Args:
      std: (..., d) standard deviations, > 0.
      delta: in (0, 1).

    Returns:
      (...) nats, exact for Gaussian actions and a guide for others.
    """
    _check_delta(delta)
    return 0.5 * jnp.sum(jnp.log1p(jnp.square(delta / ((1.0 - delta) * std))), axis=-1)


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta {delta} must lie in (0, 1)")
