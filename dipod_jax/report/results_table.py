"""The table of a study's results as text: our rows, and the published numbers under them."""

from collections.abc import Sequence
from typing import NamedTuple

from dipod_jax.report.charts import names_of
from dipod_jax.studies.collected import Study
from dipod_jax.studies.published import BEST, BRAX_PPO, FPO, POLICY_GRADIENT, PPO, Published
from dipod_jax.studies.statistics import Interval
from dipod_jax.studies.summary import Row
from dipod_jax.tables import number_or_dash, shown_return


class Cells(NamedTuple):
    """A line of the table of results, as text."""

    label: str
    seeds: str
    mean: str
    iqm: str = ""
    auc: str = ""
    improvement: str = ""
    difference: str = ""
    gap: str = ""
    cosine: str = ""
    best: bool = False
    published: bool = False


def results_table(table: Sequence[Row], study: Study) -> list[tuple[str, list[Cells]]]:
    """(task, its lines), the published numbers under our own."""
    names = names_of(study.arms)
    groups = []
    for task in dict.fromkeys(row.task for row in table):
        own = [row for row in table if row.task == task]
        highest = max((float(row.mean.value) for row in own if row.mean is not None), default=None)
        lines = [_cells(row, names[row.arm], highest) for row in own]
        groups.append((task[0].upper() + task[1:], [*lines, *(_published(p) for p in _published_of(task))]))
    return groups


def _cells(row: Row, label: str, highest: float | None) -> Cells:
    begun = f"{row.num_seeds}" if row.num_seeds == row.num_begun else f"{row.num_seeds} of {row.num_begun}"
    return Cells(
        label=label,
        seeds=begun + (f", {row.num_diverged} diverged" if row.num_diverged else ""),
        mean=interval_text(row.mean, ""),
        iqm=interval_text(row.iqm, ""),
        auc=interval_text(row.auc, ""),
        improvement=interval_text(row.improvement, ".2f"),
        difference=interval_text(row.difference, "+"),
        gap=number_or_dash(row.gap, ".3g"),
        cosine=number_or_dash(row.cosine, ".2f"),
        best=row.mean is not None and float(row.mean.value) == highest,
    )


def _published_of(task: str) -> list[Published]:
    """Each once: the best of all is often a policy gradient."""
    published = (BEST, POLICY_GRADIENT, PPO, BRAX_PPO, FPO)
    return list(dict.fromkeys(numbers[task] for numbers in published if task in numbers))


def _published(number: Published) -> Cells:
    spread = "" if number.std is None else f" ± {number.std:g}"
    seeds = "-" if number.runs is None else str(number.runs)
    return Cells(f"published: {number.method}", seeds, f"{number.mean:g}{spread}", published=True)


def sources(study: Study) -> list[str]:
    """Each source with what is taken from it."""
    known = [(task, number) for task in study.tasks for number in _published_of(task)]
    found: dict[str, list[str]] = {}
    for task, number in known:
        found.setdefault(number.source, []).append(f"{number.method} on {task}")
    return [f"{source}: {', '.join(what)}" for source, what in found.items()]


def interval_text(interval: Interval | None, form: str) -> str:
    """`815 (790 to 840)`; without the bracket where there is no interval, a dash where there is nothing."""
    if interval is None:
        return "-"
    text = (lambda v: f"{v:{form}}") if form.endswith("f") else (lambda v: shown_return(float(v), form))
    bounds = "" if interval.low != interval.low else f" ({text(interval.low)} to {text(interval.high)})"
    return text(interval.value) + bounds
