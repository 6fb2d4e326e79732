"""Measurements of a policy: drift of the bound, alignment of gradients, action statistics. Pure functions."""

from dipod_jax.bounds import CfmSpec
from dipod_jax.diagnostics.actions import acting_std, action_metrics, sample_actions
from dipod_jax.diagnostics.alignment import alignment_metrics, exact_policy_gradient
from dipod_jax.diagnostics.batch import DriftBatch, MeterSettings, draw_losses
from dipod_jax.diagnostics.chain import chain_log_prob, chain_metrics, conditional_metrics
from dipod_jax.diagnostics.gap import elbo_of_actions, floor_metrics, gap_metrics
from dipod_jax.diagnostics.meter import drift_metrics
from dipod_jax.diagnostics.refit import refit, refit_metrics
from dipod_jax.diagnostics.vectors import cosine, noise_ceiling, norm

__all__ = [
    "CfmSpec",
    "DriftBatch",
    "MeterSettings",
    "acting_std",
    "action_metrics",
    "alignment_metrics",
    "chain_log_prob",
    "chain_metrics",
    "conditional_metrics",
    "cosine",
    "draw_losses",
    "drift_metrics",
    "elbo_of_actions",
    "exact_policy_gradient",
    "floor_metrics",
    "gap_metrics",
    "noise_ceiling",
    "norm",
    "refit",
    "refit_metrics",
    "sample_actions",
]
