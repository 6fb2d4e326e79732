"""Learning curves: the return of every evaluation, over env steps and over wall-clock time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipod_jax.viz._series import Curve, curves_by_seed, mean_curve
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
    time_unit,
    title_left,
    with_count,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

RETURN = "return_mean"
ZERO_NOISE_RETURN = "zero_noise_return_mean"
INTERVAL = "return_ci95"
# DM Control's highest return: 1000 steps of a reward in [0, 1].
MAX_RETURN = 1000.0


def plot_returns(
    evaluations: list[dict[str, Any]],
    path: Path,
    *,
    title: str,
    note: str | None = None,
) -> None:
    """Draw the return over env steps and over wall-clock time, side by side with one y axis.

    The mean over seeds is thick, each seed thin; the return with zero base noise is dashed. With one seed the band is
    the 95 % interval over that seed's evaluation episodes; with several the seeds themselves show the spread.

    Args:
        evaluations: records with `seed`, `env_steps`, `wall_clock_s` (s since the start), `return_mean` and
            optionally `return_ci95` (half width) and `zero_noise_return_mean`. Returns are sums over 1000 steps.
            Records with null or nan in one of these are left out of that curve.
        path: where the picture goes, a `.png`, `.pdf` or `.svg`; replaced atomically.
        title: one line.
        note: small print below, such as what an interval does not cover.
    """
    footer = 0.3 if note else 0.0
    with figure(path, 10.0, 4.4 + footer) as whole:
        drawing = _above_note(whole, note, footer) if note else whole
        by_steps, by_time = drawing.subplots(1, 2, sharey=True)
        by_time.tick_params(left=False)
        _draw_run(by_steps, evaluations, "env_steps")
        _draw_run(by_time, evaluations, "wall_clock_s")
        count_axis(by_steps, "env steps")
        _time_axis(by_time, evaluations)
        _return_axis(by_steps, [evaluations])
        handles, labels = by_steps.get_legend_handles_labels()
        if handles:
            drawing.legend(handles, labels, loc="outside lower center", ncols=4)
        title_left(drawing, title)


def plot_comparison(
    runs: dict[str, list[dict[str, Any]]],
    path: Path,
    *,
    x: str = "wall_clock_s",
    title: str,
    highest: float = MAX_RETURN,
) -> None:
    """Draw several runs in one panel, one colour each: the mean over seeds is thick, each seed thin.

    Args:
        runs: label -> evaluations as in `plot_returns`, in the order of the legend.
        path: where the picture goes; replaced atomically.
        x: `wall_clock_s` or `env_steps`.
        title: one line.
        highest: the return that the axis reaches at least.

    Raises:
        ValueError: another `x`.
    """
    if x not in ("wall_clock_s", "env_steps"):
        raise ValueError(f"x {x!r} is not allowed: one of wall_clock_s, env_steps")
    everything = [record for evaluations in runs.values() for record in evaluations]
    with figure(path, 7.2, 4.8) as drawing:
        axes = drawing.subplots()
        for index, (label, evaluations) in enumerate(runs.items()):
            seeds = curves_by_seed(evaluations, x, RETURN)
            colour = COLOURS[index % len(COLOURS)]
            style = RUN_STYLES[index // len(COLOURS) % len(RUN_STYLES)]
            _draw_seeds(axes, seeds, colour)
            _draw_mean(axes, mean_curve(seeds.values()), colour, with_count(label, len(seeds)), style)
        if x == "env_steps":
            count_axis(axes, "env steps")
        else:
            _time_axis(axes, everything)
        _return_axis(axes, runs.values(), highest)
        if runs:
            legend_below(drawing, *axes.get_legend_handles_labels(), most=3)
        title_left(drawing, title)


def _above_note(whole: "Figure", note: str, footer: float) -> "SubFigure":
    """The part of the figure above a strip of `footer` inches that holds the small print."""
    heights = [whole.get_figheight() - footer, footer]
    above, below = whole.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    below.text(0.012, 0.6, note, fontsize=9, color=PALE_INK, va="center")
    return above


def _draw_run(axes: "Axes", evaluations: list[dict[str, Any]], x: str) -> None:
    seeds = curves_by_seed(evaluations, x, RETURN)
    zero_noise = curves_by_seed(evaluations, x, ZERO_NOISE_RETURN)
    if not seeds:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color=PALE_INK)
        return
    label = "random base noise" if len(seeds) == 1 else f"random base noise, mean of {len(seeds)} seeds"
    _draw_mean(axes, mean_curve(seeds.values()), COLOURS[0], label)
    _draw_mean(axes, mean_curve(zero_noise.values()), COLOURS[1], "zero base noise", (0, (4, 2)), width=1.6)
    if len(seeds) == 1:
        _draw_interval(axes, evaluations, x)
    _draw_seeds(axes, seeds, COLOURS[0], label="each seed")


def _draw_interval(axes: "Axes", evaluations: list[dict[str, Any]], x: str) -> None:
    with_interval = [record for record in evaluations if record.get(INTERVAL) is not None]
    for half_width in curves_by_seed(with_interval, x, INTERVAL).values():
        for middle in curves_by_seed(with_interval, x, RETURN).values():
            if middle.x.shape == half_width.x.shape:
                low, high = middle.y - half_width.y, middle.y + half_width.y
                label = "95 % interval over episodes"
                axes.fill_between(middle.x, low, high, color=COLOURS[0], alpha=0.18, linewidth=0, label=label)


def _draw_seeds(axes: "Axes", seeds: dict[int, Curve], colour: str, label: str | None = None) -> None:
    if len(seeds) == 1:  # its mean is the same line
        return
    for curve in seeds.values():
        axes.plot(curve.x, curve.y, color=colour, linewidth=SEED_WIDTH, alpha=SEED_ALPHA, label=label)
        label = None


def _draw_mean(axes: "Axes", mean: Curve, colour: str, label: str, style: Any = "-", width: float = MEAN_WIDTH) -> None:
    draw_mean(axes, mean, color=colour, linewidth=width, linestyle=style, label=label, zorder=3)


def _time_axis(axes: "Axes", evaluations: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    curves = curves_by_seed(evaluations, "wall_clock_s", RETURN).values()
    unit_s, unit = time_unit(max((curve.x[-1] for curve in curves), default=0.0))
    nice = [1, 1.5, 2, 3, 6, 10] if unit != "h" else [1, 2, 2.5, 5, 10]
    left, right = 0.0, axes.get_xlim()[1]
    axes.set_xlim(left, right)
    ticks = [unit_s * tick for tick in MaxNLocator(nbins=6, steps=nice).tick_values(left, right / unit_s)]
    axes.set_xticks([tick for tick in ticks if left <= tick <= right])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit_s:g}"))
    axes.set_xlabel(f"wall-clock time ({unit})")


def _return_axis(axes: "Axes", runs: Any, highest: float = MAX_RETURN) -> None:
    """0 to `highest`, wider only if a return lies outside."""
    values = [0.0, highest]
    for evaluations in runs:
        for key in (RETURN, ZERO_NOISE_RETURN):
            values += [float(y) for curve in curves_by_seed(evaluations, "env_steps", key).values() for y in curve.y]
    lowest, highest = min(values), max(values)
    axes.set_ylim(lowest * 1.05, highest + 0.03 * (highest - lowest))
    axes.set_ylabel("return of an episode")
