"""Several runs' drift on one time axis: what moves first, and the effect of a remedy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dipod_jax.viz._series import mean_curve
from dipod_jax.viz._style import (
    COLOURS,
    MEAN_WIDTH,
    PALE_INK,
    RUN_STYLES,
    SEED_ALPHA,
    SEED_WIDTH,
    count_axis,
    draw_mean,
    figure,
    legend_below,
    title_left,
    with_count,
)
from dipod_jax.viz.drift import Line, panels_with_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DriftRecords(NamedTuple):
    """One run's metrics: `records` of training and drift, `evaluations`, as in `plot_drift`."""

    records: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]


def plot_drift_comparison(runs: dict[str, DriftRecords], path: Path, *, title: str) -> None:
    """Draw the panels of `plot_drift` with one colour per run; the mean over seeds is thick, each seed thin.

    Each panel shows its first quantity; the gap panel adds the median over samples (dashed), the cosine panel the
    agreement of two half batches (dotted). If there are more runs than colours, dashes tell the runs apart instead.

    Args:
        runs: label -> records, in the order of the legend.
        path: where the picture goes; replaced atomically.
        title: one line.

    Raises:
        ValueError: no panel has data in any run.
    """
    together = DriftRecords(*([r for run in runs.values() for r in part(run)] for part in (_records, _evaluations)))
    panels = panels_with_data(*together)
    if not panels:
        raise ValueError("plot_drift_comparison: no run holds any of the quantities it draws")
    with figure(path, 8.0, 1.6 + 1.8 * len(panels)) as drawing:
        stack = drawing.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (panel, source) in zip(stack, panels, strict=True):
            part = _evaluations if source is together.evaluations else _records
            lines = panel.shown_in_comparison()
            if len(runs) > len(COLOURS):
                lines = lines[:1]
            for index, (label, run) in enumerate(runs.items()):
                group, colour = divmod(index, len(COLOURS))
                _draw(axes, lines, part(run), COLOURS[colour], RUN_STYLES[group % len(RUN_STYLES)], label)
            axes.set_ylabel(panel.label)
            panel.scale(axes)
            _line_styles(axes, lines)
        drawing.align_ylabels(stack)
        count_axis(stack[-1], "env steps of a seed")
        handles, labels = stack[0].get_legend_handles_labels()
        legend_below(drawing, handles, labels, most=3)
        title_left(drawing, title)


def _records(run: DriftRecords) -> list[dict[str, Any]]:
    return run.records


def _evaluations(run: DriftRecords) -> list[dict[str, Any]]:
    return run.evaluations


def _line_styles(axes: "Axes", lines: tuple[Line, ...]) -> None:
    """A legend for solid, dashed and dotted lines, if a panel shows more than one quantity."""
    from matplotlib.lines import Line2D

    if len(lines) > 1:
        handles = [Line2D([], [], color=PALE_INK, linestyle=line.style, label=line.label) for line in lines]
        axes.legend(handles=handles, loc="best", fontsize=9, handlelength=2.4)


def _draw(
    axes: "Axes", lines: tuple[Line, ...], records: list[dict[str, Any]], colour: str, style: str, label: str
) -> None:
    for number, line in enumerate(lines):
        seeds = line.curves(records)
        mean = mean_curve(seeds.values())
        if number == 0 and len(seeds) > 1:
            for curve in seeds.values():
                axes.plot(*curve, color=colour, linewidth=SEED_WIDTH, alpha=SEED_ALPHA)
        width = MEAN_WIDTH if number == 0 else 1.2
        name = with_count(label, len(seeds)) if number == 0 else None
        draw_mean(axes, mean, color=colour, linewidth=width, linestyle=line.style if number else style, label=name)
