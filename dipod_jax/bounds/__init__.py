"""Bounds on, and exact values of, the log-likelihood of a flow policy's action: pure functions of arrays."""

from dipod_jax.bounds.cfm import (
    FORMS,
    REDUCTIONS,
    CfmSpec,
    cfm_loss,
    convert_prediction,
    form_weight,
    gaussian_velocity,
    interpolate,
)
from dipod_jax.bounds.draws import PLACEMENTS, Draws, draw_weights, gauss_legendre, sample_draws
from dipod_jax.bounds.elbo import (
    TIME_MEASURES,
    WEIGHTINGS,
    WeightingStatus,
    cutoff_floor,
    elbo,
    elbo_constant,
    elbo_loss,
    loss_weight,
    to_log_uniform,
    weighting_status,
)
from dipod_jax.bounds.eubo import eubo_like, mixed_bound
from dipod_jax.bounds.inversion import SOLVERS, Inversion, invert
from dipod_jax.bounds.jacobian import ConditionedVelocityFn, step_with_jacobian
from dipod_jax.bounds.likelihood import (
    ExactLikelihood,
    log_prob_of_action,
    log_prob_of_noise,
    standard_normal_log_prob,
    tanh_log_prob,
)
from dipod_jax.bounds.ode import ode_log_prob_of_action
from dipod_jax.bounds.sampler import (
    EVALUATIONS_PER_STEP,
    GRID_KINDS,
    METHODS,
    VelocityFn,
    evaluation_times,
    integrate,
    slope,
    time_grid,
)
from dipod_jax.bounds.transitions import Transitions, constant_noise, ddim, marginal_preserving

__all__ = [
    "EVALUATIONS_PER_STEP",
    "FORMS",
    "GRID_KINDS",
    "METHODS",
    "PLACEMENTS",
    "REDUCTIONS",
    "SOLVERS",
    "TIME_MEASURES",
    "WEIGHTINGS",
    "CfmSpec",
    "ConditionedVelocityFn",
    "Draws",
    "ExactLikelihood",
    "Inversion",
    "Transitions",
    "VelocityFn",
    "WeightingStatus",
    "cfm_loss",
    "constant_noise",
    "convert_prediction",
    "cutoff_floor",
    "ddim",
    "draw_weights",
    "elbo",
    "elbo_constant",
    "elbo_loss",
    "eubo_like",
    "evaluation_times",
    "form_weight",
    "gauss_legendre",
    "gaussian_velocity",
    "integrate",
    "interpolate",
    "invert",
    "log_prob_of_action",
    "log_prob_of_noise",
    "loss_weight",
    "marginal_preserving",
    "mixed_bound",
    "ode_log_prob_of_action",
    "sample_draws",
    "slope",
    "standard_normal_log_prob",
    "step_with_jacobian",
    "tanh_log_prob",
    "time_grid",
    "to_log_uniform",
    "weighting_status",
]
