"""The common look of all figures: colours, sizes, axes, and saving. matplotlib is imported only when something is
drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipod_jax.runs._disk import replacing
from dipod_jax.tables import short_number
from dipod_jax.viz._series import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's palette: told apart by readers with any colour vision, dark enough on white. The yellow is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
# Of the first seven runs in a picture, of the next seven, and so on.
RUN_STYLES = ("-", "--", ":", "-.")
INK = "#222222"
PALE_INK = "#666666"

MEAN_WIDTH = 2.4
SEED_WIDTH = 0.9
SEED_ALPHA = 0.45

_RC: Any = {  # matplotlib types its own keys one by one
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture on every machine
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE_INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": PALE_INK,
    "ytick.color": PALE_INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.edgecolor": "none",  # a pale ground alone, so that no curve runs through the words
    "legend.fontsize": 10,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "text.color": INK,
    "text.parse_math": False,  # a title may hold a dollar or an underscore
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yield a figure of `width` x `height` inches that is saved to `path` (150 dpi) when the block ends.

    It does not use pyplot: no global state, no window, no choice of backend.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            drawing.savefig(temporary, dpi=150, facecolor="white")


def title_left(drawing: "Figure | SubFigure", title: str) -> None:
    """Title over the left end of the figure, as the text beneath it begins."""
    drawing.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")


def legend_below(drawing: "Figure", handles: Sequence[Any], labels: Sequence[str], *, most: int) -> None:
    """A legend below all panels, as many labels beside each other as the figure is wide enough for, at most `most`."""
    longest = 0.7 + 0.075 * max(map(len, labels), default=0)  # inches of a line and of a letter
    columns = max(1, min(most, len(labels), int(drawing.get_figwidth() / longest)))
    drawing.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_mean(axes: "Axes", mean: Curve, **look: Any) -> None:
    """The line of a mean, or its one point; nothing where there is none. `look` is as for `Axes.plot`."""
    if mean.x.size:
        axes.plot(*mean, marker="o" if mean.x.size == 1 else None, **look)


def count_axis(axes: "Axes", label: str) -> None:
    """Ticks 0, 250k, 1M, 1.5M; from 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    axes.set_xlabel(label)


def log_axis(*shared: "Axes") -> None:
    """Axes of one y: logarithmic with plain numbers; symmetric logarithmic if a value is not positive."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lines = [line for axes in shared for line in axes.get_lines()]
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
    low, high = np.min(values), np.max(values)
    for axes in shared:
        if low <= 0:
            axes.set_yscale("symlog", linthresh=1.0)
        else:
            axes.set_yscale("log")
            if high / low < 100:  # less than two decades: powers of ten alone would leave one tick, or none
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.set_ylim(low / 1.15, high * 1.15)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def time_unit(longest_s: float) -> tuple[float, str]:
    """(seconds per unit, the unit's name) in which `longest_s` is easy to read: s, min or h."""
    if longest_s <= 1200:
        return 1.0, "s"
    return (60.0, "min") if longest_s <= 3 * 3600 else (3600.0, "h")


def with_count(label: str, num_seeds: int) -> str:
    """`label`, with the number of seeds that its mean is of."""
    label = label if label[:1] not in ("", "_") else f" {label}"  # matplotlib leaves such names out of a legend
    return f"{label} ({num_seeds} seeds)" if num_seeds > 1 else label
