"""The pages one looks at. Nothing here computes a result."""

from dipod_jax.report.run import objective_of, write_report

__all__ = ["objective_of", "write_report"]
