"""HTML reports: of a run, which computes nothing, and of a study, which uses `dipod_jax.studies`."""

from typing import TYPE_CHECKING, Any

from dipod_jax.report.run import objective_of, write_report

if TYPE_CHECKING:
    from dipod_jax.report.study import write_runs_report, write_study_report

__all__ = ["objective_of", "write_report", "write_runs_report", "write_study_report"]


def __getattr__(name: str) -> Any:
    """The study's page on first use: it needs floors that the run's page stands under."""
    if name in ("write_runs_report", "write_study_report"):
        from dipod_jax.report import study

        return getattr(study, name)
    raise AttributeError(f"module 'dipod_jax.report' has no attribute {name!r}")
