"""The study's figure: accuracy, gap and entropy over the iterations, one column per method, one colour per beta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipod_jax.viz._series import curves_by_seed, mean_curve
from dipod_jax.viz._style import COLOURS, MEAN_WIDTH, SEED_ALPHA, SEED_WIDTH, figure, log_axis, title_left

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Metric, the label of its row, scale.
ROWS = (
    ("greedy", "greedy accuracy", "linear"),
    ("drift/gap", "log-likelihood less ELBO, nats", "log"),
    ("drift/entropy", "entropy, nats", "linear"),
)
OF_BETA = {"0.0": COLOURS[1], "0.01": COLOURS[4], "0.05": COLOURS[0], "auto": COLOURS[2]}
SMALLEST_GAP = 1e-3


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the mean over seeds as a thick line and each seed as a thin one.

    Args:
        records: arms, each with `task`, `method`, `beta` and `metrics`, the records of its run.
        path: where the figure goes; replaced atomically.
    """
    columns = list(dict.fromkeys((record["task"], record["method"]) for record in records))
    with figure(path, 1.0 + 3.0 * len(columns), 8.2) as drawing:
        axes = drawing.subplots(len(ROWS), len(columns), sharex="col", sharey="row", squeeze=False)
        for line, (metric, label, scale) in zip(axes, ROWS, strict=True):
            for panel, column in zip(line, columns, strict=True):
                for record in (r for r in records if (r["task"], r["method"]) == column):
                    _draw_arm(panel, record, metric)
            if scale == "log":
                log_axis(*line)
            line[0].set_ylabel(label)
        for index, (task, method) in enumerate(columns):
            axes[0, index].set_title(f"{method}, {task}")
            axes[-1, index].set_xlabel("iteration")
        labelled = [panel.get_legend_handles_labels() for panel in axes[0]]
        handles = {label: h for found in labelled for h, label in zip(*found, strict=True)}
        drawing.legend(handles.values(), handles, loc="outside lower center", ncols=4)
        title_left(drawing, "Post-training with and without DiPOD")


def _draw_arm(axes: Axes, record: Mapping[str, Any], metric: str) -> None:
    beta = str(record["beta"])
    curves = curves_by_seed(record["metrics"], "iteration", metric).values()
    floor = SMALLEST_GAP if metric == "drift/gap" else 0.0
    for curve in curves:
        y = curve.y.clip(min=floor)
        axes.plot(curve.x, y, color=OF_BETA[beta], linewidth=SEED_WIDTH, alpha=SEED_ALPHA)
    mean = mean_curve(curves)
    axes.plot(mean.x, mean.y.clip(min=floor), color=OF_BETA[beta], linewidth=MEAN_WIDTH, label=f"beta {beta}")
