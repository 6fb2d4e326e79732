"""What a study says in numbers: a row for every arm on every task, and whether beta helps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dipod_jax.studies.collected import Arm, Study
from dipod_jax.studies.statistics import (
    COVERAGE,
    Interval,
    bootstrap,
    difference_of_means,
    interquartile_mean,
    mean,
    probability_of_improvement,
)
from dipod_jax.tables import mean_of_numbers

ALL_TASKS = "all tasks"


class Row(NamedTuple):
    """One arm on one task, or on all tasks that have it."""

    task: str
    arm: Arm
    num_seeds: int
    """finished seeds with a return, over which the statistics are"""
    num_begun: int
    num_diverged: int
    """finished seeds without one"""
    mean: Interval | None
    """None where no seed is finished; so are those that follow"""
    iqm: Interval | None
    auc: Interval | None
    """mean over the finished seeds of the mean return along training"""
    improvement: Interval | None
    """probability of a higher return than with beta 0; None for beta 0 itself and where it was not run"""
    difference: Interval | None
    """mean return less that with beta 0"""
    gap: float | None
    """mean over seeds of the late gap, nats (`SeedRun.late`)"""
    cosine: float | None


def rows(study: Study) -> list[Row]:
    """A row for every task and arm; then, where there are several tasks, one for every arm that all tasks have."""
    found = [_row(task, [task], arm, study) for task in study.tasks for arm in study.arms if study.of(task, arm)]
    if len(study.tasks) > 1:
        common = [arm for arm in study.arms if all(finals(study, task, arm).size for task in study.tasks)]
        found += [_row(ALL_TASKS, study.tasks, arm, study) for arm in common]
    return found


def finals(study: Study, task: str, arm: Arm) -> np.ndarray:
    """Final returns (N,) of the finished seeds of an arm on a task."""
    return np.array([s.final_return for s in study.of(task, arm) if s.final_return is not None], dtype=float)


def _row(name: str, tasks: Sequence[str], arm: Arm, study: Study) -> Row:
    seeds = [seed for task in tasks for seed in study.of(task, arm)]
    done = [seed for seed in seeds if seed.final_return is not None]
    scores = [finals(study, task, arm) for task in tasks]
    control = [finals(study, task, arm.control) for task in tasks]
    along = [np.array([seed.auc for seed in done if seed.task == task and seed.auc is not None]) for task in tasks]
    has_control = arm != arm.control and all(task.size for task in (*scores, *control))
    return Row(
        task=name,
        arm=arm,
        num_seeds=len(done),
        num_begun=len(seeds),
        num_diverged=sum(seed.finished and seed.final_return is None for seed in seeds),
        mean=bootstrap(mean, scores) if done else None,
        iqm=bootstrap(interquartile_mean, scores) if done else None,
        auc=bootstrap(mean, along) if all(task.size for task in along) else None,
        improvement=probability_of_improvement(scores, control) if has_control else None,
        difference=difference_of_means(scores, control) if has_control else None,
        gap=mean_of_numbers(seed.late("gap") for seed in seeds),
        cosine=mean_of_numbers(seed.late("cosine") for seed in seeds),
    )


def verdicts(table: Sequence[Row]) -> list[str]:
    """Whether beta helps: a sentence over all tasks, where there are several, and one for each task.

    Several objectives, or other options, have a sentence each. Where an interval of the difference from beta 0 leaves
    out 0, that beta helps or hurts.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table:
        if row.difference is not None:
            groups.setdefault((row.task, row.arm.objective, row.arm.options), []).append(row)
    ordered = sorted(groups, key=lambda group: group[0] != ALL_TASKS)
    several = len({group[1:] for group in groups}) > 1
    return [_verdict(groups[group], with_arm=several) for group in ordered]


def _verdict(compared: Sequence[Row], *, with_arm: bool) -> str:
    best = max(compared, key=lambda row: float(_difference(row).value))
    arm = ", ".join(part for part in (best.arm.objective, best.arm.options) if part)
    helping = [row.arm.beta for row in compared if _difference(row).low > 0]
    hurting = [row.arm.beta for row in compared if _difference(row).high < 0]
    where = f"{best.task[0].upper()}{best.task[1:]}{f', {arm}' if with_arm else ''}"
    findings = [f"beta {how} at {_listed(betas)}" for how, betas in (("helps", helping), ("hurts", hurting)) if betas]
    if not findings:
        findings = ["the seeds tell no beta from beta 0"]
    return f"{where}: {' and '.join(findings)}. {_effect(best, one_of=len(compared))}"


def _difference(row: Row) -> Interval:
    assert row.difference is not None
    return row.difference


def _effect(row: Row, *, one_of: int) -> str:
    """By how much the best beta differs from beta 0."""
    difference, improvement = _difference(row), row.improvement
    assert improvement is not None
    by = f"{abs(float(difference.value)):.3g} {'higher' if difference.value >= 0 else 'lower'}"
    who = f"With beta {row.arm.beta}{', the best of them,' if one_of > 1 else ''}"
    if np.isnan(difference.low):
        return f"{who} the mean final return is {by} than with beta 0; of single seeds there is no interval."
    bounds = f"{difference.low:+.3g} to {difference.high:+.3g}"
    chance = f"{improvement.value:.2f} ({improvement.low:.2f} to {improvement.high:.2f})"
    return (
        f"{who} the mean final return is {by} than with beta 0 (95 % interval {bounds}), and a seed returns more with "
        f"probability {chance}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def cautions(table: Sequence[Row]) -> list[str]:
    """What must be said beside the intervals: how often those of so few seeds hold, and how many are compared."""
    counts = [row.num_seeds for row in table if row.task != ALL_TASKS and row.num_seeds > 1]
    said = []
    if counts:
        known = min(COVERAGE, key=lambda seeds: abs(seeds - min(counts)))
        one, four = (f"{100 * share:.0f} %" for share in COVERAGE[known])
        said.append(
            "Intervals are stratified bootstraps over seeds, which are too narrow where seeds are few: in simulation, "
            f"those of the mean of {known} seeds hold the true one in {one} of studies of one task and in {four} of "
            "four tasks, where 95 % is meant."
        )
    improvements = [row.improvement for row in table if row.improvement is not None]
    if any(improvement.low == improvement.high != 0.5 for improvement in improvements):
        said.append(
            "An interval of no width, as 1.00 (1.00 to 1.00), says that no two seeds here overlap, not that none would."
        )
    if len(improvements) > 1:
        compared = f"{len(improvements)} comparisons with beta 0 are made here"
        said.append(f"{compared}; no interval is widened for their number, and the best of several is flattered.")
    return said
