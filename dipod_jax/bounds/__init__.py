"""Bounds on, and exact values of, the log-likelihood of a flow policy's action: pure functions of arrays."""

from dipod_jax.bounds.cfm import FORMS, REDUCTIONS, cfm_loss, convert_prediction, form_weight, interpolate
from dipod_jax.bounds.draws import PLACEMENTS, Draws, draw_weights, gauss_legendre, sample_draws
from dipod_jax.bounds.sampler import EVALUATIONS_PER_STEP, GRID_KINDS, METHODS, VelocityFn, integrate, time_grid

__all__ = [
    "EVALUATIONS_PER_STEP",
    "FORMS",
    "GRID_KINDS",
    "METHODS",
    "PLACEMENTS",
    "REDUCTIONS",
    "Draws",
    "VelocityFn",
    "cfm_loss",
    "convert_prediction",
    "draw_weights",
    "form_weight",
    "gauss_legendre",
    "integrate",
    "interpolate",
    "sample_draws",
    "time_grid",
]
