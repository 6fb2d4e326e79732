"""HTML reports. No results are computed here."""

from dipod_jax.report.run import objective_of, write_report

__all__ = ["objective_of", "write_report"]
