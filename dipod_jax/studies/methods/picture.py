"""The study's picture: one panel per task, one row per method, its return with and without DiPOD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipod_jax.viz._style import COLOURS, PALE_INK, figure, title_left

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RETURN = 1000.0
# Of a run without DiPOD and of one with it: how far its row's marks lie above the middle, colour, legend.
STYLES = ((0.16, COLOURS[1], "beta 0"), (-0.16, COLOURS[0], "the best of the betas"))


def draw(panels: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw the mean return of every run as a large mark and each seed's as a small one.

    Args:
        panels: task -> runs, each with `objective`, `beta`, `return` (mean; None: no number) and `returns` (of each
            seed). Methods are ordered by their best mean on any task.
        path: where the picture goes; replaced atomically.
    """
    order = _order([run for runs in panels.values() for run in runs])
    with figure(path, 2.2 + 3.4 * len(panels), 1.6 + 0.34 * len(order)) as drawing:
        axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, (name, runs) in zip(axes, panels.items(), strict=True):
            _draw_panel(panel, runs, order)
            panel.set_title(name)
        axes[0].set_yticks(range(len(order)), order)
        axes[0].set_ylim(len(order) - 0.5, -0.5)
        labelled = [panel.get_legend_handles_labels() for panel in axes]
        handles = {label: h for found in labelled for h, label in zip(*found, strict=True)}
        drawing.legend(handles.values(), handles, loc="outside lower center", ncols=2)
        title_left(drawing, "Return of every method, without DiPOD and with it")


def _order(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Objectives, the one with the highest mean return on any task first."""
    best: dict[str, float] = {}
    for run in runs:
        value = -1.0 if run["return"] is None else run["return"]
        best[run["objective"]] = max(value, best.get(run["objective"], -1.0))
    return sorted(best, key=lambda name: -best[name])


def _draw_panel(axes: Axes, runs: Sequence[Mapping[str, Any]], order: Sequence[str]) -> None:
    for run in runs:
        shift, colour, label = STYLES[run["beta"] > 0]
        row = order.index(run["objective"]) - shift
        returns = [x for x in run["returns"] if x is not None]
        axes.plot(returns, [row] * len(returns), "o", color=colour, markersize=3.5, alpha=0.5)
        if run["return"] is not None:
            axes.plot(run["return"], row, "o", color=colour, markersize=7.5, label=label)
    for row in range(len(order) - 1):
        axes.axhline(row + 0.5, color=PALE_INK, linewidth=0.4, alpha=0.5)
    axes.set_xlim(-20.0, MAX_RETURN + 20.0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("return of an episode")
