"""The charts of a study as JSON: lines, bands and seeds on one x grid per chart. `static/study.js` draws them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dipod_jax.studies.collected import Arm, SeedRun, Study
from dipod_jax.studies.statistics import Interval, bootstrap, mean, performance_profile
from dipod_jax.studies.summary import finals
from dipod_jax.viz._series import Curve
from dipod_jax.viz.curves import MAX_RETURN
from dipod_jax.viz.drift import HIGHEST_GAP
from dipod_jax.viz.figure2 import Band

MAX_POINTS = 300
Json = dict[str, Any]


class Section(NamedTuple):
    """Charts under one heading and one legend."""

    heading: str
    note: str
    group: str
    """which legend: `arms` or `tasks`"""
    charts: list[Json]


def names_of(arms: Sequence[Arm]) -> dict[Arm, str]:
    """A label for each arm, with its objective where there are several."""
    several = len({arm.objective for arm in arms}) > 1
    return {arm: f"{arm.objective}, {arm.label}" if several else arm.label for arm in arms}


Bands = dict[str, dict[Arm, Band]]
"""task -> arm -> mean over seeds and interval over env steps"""


def sections(study: Study, returns: Bands) -> list[Section]:
    """What the page shows, without the sections for which nothing was measured; `returns` are the bands of "return"."""
    over_steps = "Line: mean over seeds. Band: its 95 % interval. Point at a curve, or tick the box, for single seeds."
    along_beta = "Mean over seeds with its 95 % interval. Betas stand at equal distances."
    found = [
        Section("Return over env steps", over_steps, "arms", _over_steps(study, "return", returns, _return_range)),
        Section("Final return against beta", along_beta, "tasks", _against_beta(study, _final, "final return")),
        Section(
            "Gap against beta",
            f"log p - ELBO in nats, median of each seed's last quarter, cut off at {HIGHEST_GAP:g}. " + along_beta,
            "tasks",
            _against_beta(study, lambda seed: seed.late("gap"), "gap (nats)"),
        ),
        Section(
            "Cosine of the objective's gradient and the exact one",
            "1: the update goes where the exact policy gradient goes. " + over_steps,
            "arms",
            _over_steps(study, "cosine", bands(study, "cosine"), _cosine_range),
        ),
        Section(
            "Performance profile",
            "Share of finished seeds that return more than x, with its 95 % band: of what every task was run with.",
            "arms",
            _profile(study),
        ),
    ]
    return [section for section in found if section.charts]


def bands(study: Study, quantity: str) -> Bands:
    """The bands of a quantity, of the tasks where it was measured."""
    return {
        task: {arm: _band([s.curves[quantity] for s in seeds], grid) for arm, seeds in arms.items()}
        for task, arms, grid in _measured(study, quantity)
    }


def _measured(study: Study, quantity: str) -> list[tuple[str, dict[Arm, list[SeedRun]], np.ndarray]]:
    """(task, arm -> seeds, grid) wherever the quantity was measured."""
    found = []
    for task in study.tasks:
        arms = {arm: [s for s in study.of(task, arm) if quantity in s.curves] for arm in study.arms}
        arms = {arm: seeds for arm, seeds in arms.items() if seeds}
        if arms:
            found.append((task, arms, _grid([s.curves[quantity] for seeds in arms.values() for s in seeds])))
    return found


def _grid(curves: Sequence[Curve]) -> np.ndarray:
    """The points of all curves, or `MAX_POINTS` between the first and the last."""
    points = np.unique(np.concatenate([curve.x for curve in curves]))
    return points if points.size <= MAX_POINTS else np.linspace(points[0], points[-1], MAX_POINTS)


def _on(grid: np.ndarray, curve: Curve) -> np.ndarray:
    """The curve on the grid, nan outside of its own points."""
    return np.interp(grid, curve.x, curve.y, left=np.nan, right=np.nan)


def _band(curves: Sequence[Curve], grid: np.ndarray) -> Band:
    """Mean and pointwise interval where all seeds have data: the number of seeds never changes along a line."""
    values = np.stack([_on(grid, curve) for curve in curves], axis=-1)  # (P, seeds)
    full = np.isfinite(values).all(-1)
    band = Band(grid, *(np.full(grid.shape, np.nan) for _ in range(3)))
    if full.any():
        for part, of_full in zip(band[1:], bootstrap(mean, [values[full]]), strict=True):
            part[full] = of_full
    return band


def _over_steps(
    study: Study, quantity: str, drawn: Bands, limits: Callable[[np.ndarray], list[float] | None]
) -> list[Json]:
    charts = []
    names = names_of(study.arms)
    for task, arms, grid in _measured(study, quantity):
        lines = []
        for arm, seeds in arms.items():
            each = {str(s.seed): _numbers(_on(grid, s.curves[quantity])) for s in seeds} if len(seeds) > 1 else {}
            lines.append(_line(names[arm], Interval(*drawn[task][arm][1:]), each, len(seeds)))
        top = np.concatenate([s.curves[quantity].y for seeds in arms.values() for s in seeds])
        chart = {"title": task, "x": "env steps", "y": quantity, "xs": _numbers(grid), "lines": lines}
        charts.append(chart | {"range": limits(top)})
    return charts


def _return_range(values: np.ndarray) -> list[float] | None:
    """0 to 1000 for returns of the suite; what the data needs otherwise."""
    return [min(0.0, float(values.min())), MAX_RETURN] if 1 < values.max() <= MAX_RETURN else None


def _decades(values: Sequence[float]) -> list[float]:
    """The powers of ten around positive values, cut off at `HIGHEST_GAP`."""
    low, high = min(*values, HIGHEST_GAP / 10), min(max(values), HIGHEST_GAP)
    bottom = math.floor(math.log10(low))
    return [10.0**bottom, 10.0 ** max(bottom + 1, math.ceil(math.log10(high)))]


def _cosine_range(values: np.ndarray) -> list[float]:
    return [min(0.0, float(values.min()) - 0.05), 1.02]


def _final(seed: SeedRun) -> float | None:
    return seed.final_return


def _against_beta(study: Study, value_of: Callable[[SeedRun], float | None], y: str) -> list[Json]:
    """One chart: a line for every task, objective and options, over the betas that it was run with."""
    betas = list(dict.fromkeys(arm.beta for arm in sorted(study.arms, key=lambda arm: arm.order[2:])))
    lines = []
    for name, arms in _lines_over_beta(study).items():
        points = [_point(study, name, arms.get(beta), value_of) for beta in betas]
        if any(point is not None for point in points):
            empty = Interval(np.nan, np.nan, np.nan)
            interval = Interval(*(np.array(part) for part in zip(*(p or empty for p in points), strict=True)))
            lines.append(_line(name[1], interval, {}, 0))
    means = [value for line in lines for value in line["mean"] if value is not None]
    if not lines or len(betas) < 2:
        return []
    log = y.startswith("gap") and min(means) > 0
    limits = _decades(means) if log else _return_range(np.array(means)) if y == "final return" else None
    chart = {"title": "", "x": "beta", "y": y, "xs": list(range(len(betas))), "labels": betas, "lines": lines}
    return [chart | {"range": limits, "log": log}]


def _lines_over_beta(study: Study) -> dict[tuple[str, str], dict[str, Arm]]:
    """(task, label) -> beta -> arm."""
    several = len({arm.objective for arm in study.arms}) > 1
    lines: dict[tuple[str, str], dict[str, Arm]] = {}
    for task in study.tasks:
        for arm in study.arms:
            label = ", ".join(part for part in (task, arm.objective if several else "", arm.options) if part)
            lines.setdefault((task, label), {})[arm.beta] = arm
    return lines


def _point(
    study: Study, name: tuple[str, str], arm: Arm | None, value_of: Callable[[SeedRun], float | None]
) -> Interval | None:
    values = [] if arm is None else [value_of(seed) for seed in study.of(name[0], arm)]
    numbers = np.array([value for value in values if value is not None and math.isfinite(value)])
    return bootstrap(mean, [numbers]) if numbers.size else None


def _profile(study: Study) -> list[Json]:
    """One chart over the arms that every task has; none for a single task."""
    scores = {arm: [finals(study, task, arm) for task in study.tasks] for arm in study.arms}
    scores = {arm: tasks for arm, tasks in scores.items() if all(task.size for task in tasks)}
    if len(study.tasks) < 2 or not scores:
        return []
    names = names_of(study.arms)
    highest = max(float(task.max()) for tasks in scores.values() for task in tasks)
    thresholds = np.linspace(0.0, MAX_RETURN if 1 < highest <= MAX_RETURN else max(highest, 1e-9), 101)
    lines = [_line(names[arm], performance_profile(tasks, thresholds), {}, 0) for arm, tasks in scores.items()]
    chart = {"title": "", "x": "final return", "y": "share of seeds above", "xs": _numbers(thresholds)}
    return [chart | {"lines": lines, "range": [0.0, 1.02]}]


def _line(label: str, interval: Interval, seeds: Mapping[str, list[float | None]], num_seeds: int) -> Json:
    middle, low, high = (_numbers(np.asarray(part)) for part in interval)
    return {"label": label, "mean": middle, "low": low, "high": high, "seeds": dict(seeds), "n": num_seeds}


def _numbers(values: np.ndarray) -> list[float | None]:
    """Five digits are more than a screen shows; what is not finite is a gap in a line."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
