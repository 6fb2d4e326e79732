"""A language run on one axis of iterations: accuracy, bounds, entropy, the objective's direction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dipod_jax.viz._series import curves_by_seed, mean_curve
from dipod_jax.viz._style import COLOURS, MEAN_WIDTH, SEED_ALPHA, SEED_WIDTH, draw_mean, figure, title_left

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(NamedTuple):
    """A y label, and record keys with the names of their lines."""

    label: str
    lines: dict[str, str]


PANELS = (
    Panel("accuracy", {"greedy": "greedy", "sampled": "sampled", "random_order": "random order"}),
    Panel(
        "distance of the bound, nats",
        {"drift/gap": "ELBO", "drift/decoder_gap": "ELBO, acting decoder", "drift/eubo_gap": "EUBO"},
    ),
    Panel("entropy, nats", {"drift/entropy": "acting decoder"}),
    Panel("share of well-formed answers", {"greedy_validity": "greedy", "sampled_validity": "sampled"}),
    Panel("cosine with the true gradient", {"drift/gradient_cosine": "objective"}),
)


def plot_language(records: list[dict[str, Any]], path: Path, *, title: str = "") -> bool:
    """Draw the means over seeds as thick lines and each seed as a thin one; a panel without data is left out.

    Args:
        records: of `metrics.jsonl`, each with `seed` and `iteration`.
        path: where the picture goes; replaced atomically.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [panel for panel in PANELS if any(curves_by_seed(records, "iteration", key) for key in panel.lines)]
    if not drawn:
        return False
    with figure(path, 3.6 * len(drawn), 3.4) as drawing:
        for axes, panel in zip(drawing.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
            _draw(axes, records, panel)
        title_left(drawing, title)
    return True


def _draw(axes: Axes, records: list[dict[str, Any]], panel: Panel) -> None:
    for colour, (key, name) in zip(COLOURS, panel.lines.items(), strict=False):
        curves = list(curves_by_seed(records, "iteration", key).values())
        if not curves:
            continue
        for curve in curves if len(curves) > 1 else ():
            axes.plot(curve.x, curve.y, color=colour, linewidth=SEED_WIDTH, alpha=SEED_ALPHA)
        mean = mean_curve(curves)
        draw_mean(axes, mean, color=colour, linewidth=MEAN_WIDTH, label=name)
    axes.set(xlabel="iteration", ylabel=panel.label)
    if len(panel.lines) > 1:
        axes.legend()
