"""Pictures of a run: learning curves, drift, films. No results are computed here."""

from dipod_jax.viz.comparison import DriftRecords, plot_drift_comparison
from dipod_jax.viz.curves import plot_comparison, plot_returns
from dipod_jax.viz.drift import has_drift, plot_drift
from dipod_jax.viz.rendering import RenderingUnavailable
from dipod_jax.viz.video import write_frame, write_video

__all__ = [
    "DriftRecords",
    "RenderingUnavailable",
    "has_drift",
    "plot_comparison",
    "plot_drift",
    "plot_drift_comparison",
    "plot_returns",
    "write_frame",
    "write_video",
]
