"""Return over env steps, one panel per task, one colour per arm: the mean over seeds with its interval."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dipod_jax.viz._style import COLOURS, MEAN_WIDTH, RUN_STYLES, count_axis, figure, legend_below, title_left
from dipod_jax.viz.curves import MAX_RETURN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND_ALPHA = 0.16
WIDE_PANELS = 4  # up to so many stand two beside each other; more are smaller, up to five beside each other


class Band(NamedTuple):
    """A mean curve with its interval: arrays (P,) over `x`; nan where there is no mean, or no interval."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def plot_figure2(panels: Mapping[str, Mapping[str, Band]], path: Path, *, labels: Sequence[str], title: str) -> None:
    """Draw the panels, two beside each other or, of more than four, up to five, under one legend.

    Args:
        panels: task -> label -> band over env steps.
        path: where the picture goes, a `.png`, `.pdf` or `.svg`; replaced atomically.
        labels: all of them, in the order of the legend and the colours; a panel may lack some.
        title: one line.
    """
    wide = len(panels) <= WIDE_PANELS
    columns = min(2, len(panels)) if wide else min(5, math.ceil(math.sqrt(len(panels))))
    lines = math.ceil(len(panels) / columns)
    width, height = (4.6, 3.1) if wide else (2.9, 2.2)
    with figure(path, 1.0 + width * columns, 1.4 + height * lines) as drawing:
        grid = drawing.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = {}
        for axes, (task, bands) in zip(grid.flat, panels.items(), strict=False):
            for label, band in bands.items():
                handles[label] = _draw(axes, band, labels.index(label))
            axes.set_title(task, loc="left")
            _axes(axes, list(bands.values()))
        shown = [label for label in labels if label in handles]
        legend_below(drawing, [handles[n] for n in shown], shown, most=4)
        title_left(drawing, title)


def _draw(axes: "Axes", band: Band, index: int):
    """The band and its mean; the mean's line."""
    group, colour = divmod(index, len(COLOURS))
    axes.fill_between(band.x, band.low, band.high, color=COLOURS[colour], alpha=BAND_ALPHA, linewidth=0)
    marker = "o" if np.isfinite(band.mean).sum() == 1 else None
    style = RUN_STYLES[group % len(RUN_STYLES)]
    return axes.plot(band.x, band.mean, style, color=COLOURS[colour], linewidth=MEAN_WIDTH, marker=marker)[0]


def _axes(axes: "Axes", bands: Sequence[Band]) -> None:
    count_axis(axes, "env steps")
    axes.set_ylabel("return")
    highest = max((float(np.nanmax(band.mean)) for band in bands if np.isfinite(band.mean).any()), default=0.0)
    if 1 < highest <= MAX_RETURN:
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.03 * MAX_RETURN)
