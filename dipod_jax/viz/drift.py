"""One time axis for everything that moves when a policy drifts: return, gap, gradient, loss, actions."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dipod_jax.viz._series import Curve, curves_by_seed, mean_curve
from dipod_jax.viz._style import (
    COLOURS,
    MEAN_WIDTH,
    PALE_INK,
    SEED_ALPHA,
    SEED_WIDTH,
    count_axis,
    draw_mean,
    figure,
    log_axis,
    time_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


HIGHEST_GAP = 1e4  # nats; beyond, a curve would press all others onto the axis


class Line(NamedTuple):
    """One quantity of a panel: the record's keys (the first that has data is drawn), its name, and its line style."""

    keys: tuple[str, ...]
    label: str
    style: Any = "-"

    def curves(self, records: list[dict[str, Any]]) -> dict[int, Curve]:
        """One curve over env steps per seed, of the first key that has data."""
        found = (curves_by_seed(records, "env_steps", key) for key in self.keys)
        return next((curves for curves in found if curves), {})


class Panel(NamedTuple):
    """One panel: its y label, its lines, and a function applied to its axes once they are drawn."""

    label: str
    lines: tuple[Line, ...]
    scale: "Callable[[Axes], None]"
    compared: tuple[int, ...] = (0,)
    """Which of the lines a comparison of runs shows; the first of them in full."""

    def shown_in_comparison(self) -> tuple[Line, ...]:
        """The lines that a comparison of runs shows."""
        return tuple(self.lines[index] for index in self.compared)


def _from_zero(axes: "Axes") -> None:
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _cosine(axes: "Axes") -> None:
    low = min([-0.05, *(float(np.min(line.get_ydata())) - 0.05 for line in axes.get_lines())])
    axes.set_ylim(low, 1.05)
    axes.axhline(0.0, color=PALE_INK, linewidth=0.9)


def _gap(axes: "Axes") -> None:
    """Logarithmic, cut off (with a remark) where the bound has long become meaningless."""
    log_axis(axes)
    high = max(float(np.max(line.get_ydata())) for line in axes.get_lines())
    if high > HIGHEST_GAP:
        axes.set_ylim(top=HIGHEST_GAP)
        on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.annotate(
            f"cut off here; to {high:.0e}",
            (0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=9,
            color=PALE_INK,
            bbox=on_white,
            zorder=4,
        )


RETURN_PANEL = Panel(
    "return",
    (Line(("return_mean",), "random base noise"), Line(("zero_noise_return_mean",), "zero base noise", (0, (4, 2)))),
    _from_zero,
)
RECORD_PANELS = (
    Panel(
        "gap (nats)\nlog p - ELBO",
        (
            Line(("drift/gap",), "mean over samples"),
            Line(("drift/gap_median",), "median", (0, (4, 2))),
        ),
        _gap,
        compared=(0, 1),
    ),
    Panel(
        "cosine of the\ntwo gradients",
        (
            Line(("drift/gradient_cosine",), "objective's and the exact one"),
            Line(("drift/gradient_cosine_ceiling",), "exact one of two half batches", (0, (1, 1.5))),
        ),
        _cosine,
        compared=(0, 1),
    ),
    Panel("CFM loss on\nown actions", (Line(("cfm_loss", "drift/cfm_loss"), "CFM loss"),), log_axis),
    Panel("action magnitude\n(pre-tanh)", (Line(("action_magnitude",), "mean |a|"),), log_axis),
)


def plot_drift(records: list[dict[str, Any]], evaluations: list[dict[str, Any]], path: Path) -> None:
    """Draw the panels that have data over env steps, with wall-clock time along the top.

    Each seed is thin, their mean thick. Panels, from above: `return_mean` and `zero_noise_return_mean` of the
    evaluations; `drift/gap` and `drift/gap_median` (nats), cut off at `HIGHEST_GAP`; `drift/gradient_cosine` with
    `drift/gradient_cosine_ceiling`; `cfm_loss` (or `drift/cfm_loss`); `action_magnitude` of the records.

    Args:
        records: metrics with `seed`, `env_steps`, `wall_clock_s` and any of the keys above; a record need not hold all.
        evaluations: as in `plot_returns`.
        path: where the picture goes; replaced atomically.

    Raises:
        ValueError: no panel has data.
    """
    panels = panels_with_data(records, evaluations)
    if not panels:
        raise ValueError("plot_drift: no record holds any of the quantities it draws")
    with figure(path, 8.0, 1.0 + 1.75 * len(panels)) as drawing:
        stack = drawing.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for index, (axes, (panel, source)) in enumerate(zip(stack, panels, strict=True)):
            _draw_panel(axes, panel, source, COLOURS[index % len(COLOURS)])
        drawing.align_ylabels(stack)
        count_axis(stack[-1], "env steps")
        _wall_clock_on_top(stack[0], [*records, *evaluations])


def panels_with_data(
    records: list[dict[str, Any]], evaluations: list[dict[str, Any]]
) -> list[tuple[Panel, list[dict[str, Any]]]]:
    """The panels for which these metrics have data, from above, each with its data."""
    panels = [(RETURN_PANEL, evaluations), *((panel, records) for panel in RECORD_PANELS)]
    return [(panel, source) for panel, source in panels if _has_data(panel, source)]


def has_drift(records: list[dict[str, Any]]) -> bool:
    """Whether `plot_drift` would show more than the returns."""
    return any(_has_data(panel, records) for panel in RECORD_PANELS)


def _has_data(panel: Panel, records: list[dict[str, Any]]) -> bool:
    return any(line.curves(records) for line in panel.lines)


def _draw_panel(axes: "Axes", panel: Panel, records: list[dict[str, Any]], colour: str) -> None:
    for line in panel.lines:
        seeds = line.curves(records)
        if len(seeds) > 1:
            for curve in seeds.values():
                axes.plot(*curve, color=colour, linewidth=SEED_WIDTH, alpha=SEED_ALPHA, linestyle=line.style)
        mean = mean_curve(seeds.values())
        draw_mean(axes, mean, color=colour, linewidth=MEAN_WIDTH, linestyle=line.style, label=line.label)
    axes.set_ylabel(panel.label)
    panel.scale(axes)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="best", handlelength=2.4, fontsize=9)


def _wall_clock_on_top(axes: "Axes", records: list[dict[str, Any]]) -> None:
    """Ticks at round times, placed at the env steps that the mean run had taken by then."""
    from matplotlib.ticker import MaxNLocator

    mean = mean_curve(curves_by_seed(records, "wall_clock_s", "env_steps").values())
    if mean.x.size < 2:
        return
    unit_s, unit = time_unit(mean.x[-1])
    times = np.asarray(MaxNLocator(nbins=6, steps=[1, 1.5, 2, 3, 6, 10]).tick_values(0.0, mean.x[-1] / unit_s))
    times = times[(times * unit_s >= mean.x[0]) & (times * unit_s <= mean.x[-1])]
    top = axes.twiny()
    top.grid(False)
    top.spines["top"].set_visible(True)
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(times * unit_s, mean.x, mean.y), [f"{time:g}" for time in times])
    top.set_xlabel(f"wall-clock time ({unit})")
