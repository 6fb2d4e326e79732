"""Algorithm 1 (distil to convergence, then n updates) against Algorithm 2 (beta) at equal gradient steps."""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.distillation import train_interleaved
from dipod_jax.toys.studies.common import (
    Options,
    Study,
    Trained,
    by_arm,
    legend_above,
    seeded_runs,
    settings_of,
    spread,
    tidy,
    train_methods,
)

NUM_UPDATES = (1, 3, 10, 30, 100, 300)
BETAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
TOLERANCES = (1e-2, 1e-3)
# Colour, marker, and where a point's label stands: offset in points and alignment.
_STYLES = {
    "Algorithm 1, 0.01": ("#56B4E9", "s", (7, -3), "left"),
    "Algorithm 1, 0.001": ("#0072B2", "o", (-7, -3), "right"),
    "Algorithm 2": ("#D55E00", "^", (0, 7), "center"),
}


def run(options: Options) -> Study:
    """FPO under both algorithms; every gradient step counts, a distillation step as much as an update."""
    families: list[tuple[str, str, tuple[float, ...], Trained]] = []
    for tolerance in TOLERANCES:
        settings = settings_of(options, tolerance=tolerance)
        n = np.array(NUM_UPDATES)[:, None]
        curves = train_interleaved(settings, seeded_runs(settings, options.seeds, ["fpo"] * len(n), 0.0, n))
        families.append((f"Algorithm 1, {tolerance:g}", "n", NUM_UPDATES, by_arm(settings, curves, options.seeds)))
    trained = train_methods(options, ["fpo+dipod"] * len(BETAS), np.array(BETAS)[:, None])
    families.append(("Algorithm 2", "beta", BETAS, trained))

    rows, arrays, points = [], {}, []
    for name, knob, values, (_, curves, gained) in families:
        gap, distilling = np.asarray(curves.mean_gap), np.asarray(curves.distilling)
        quarter = (gap.shape[-1] - 1) // 4
        for v, value in enumerate(values):
            rows.append(
                {
                    "algorithm, tolerance": name,
                    "knob": f"{knob} = {value:g}",
                    "steps that distil": f"{distilling[v, :, 1:].mean():.0%}",
                    "gained, 1/4 of the steps": spread(gained[v, :, quarter], 3),
                    "gained, end": spread(gained[v, :, -1], 3),
                    "mean gap, mean over steps": spread(gap[v].mean(axis=-1)),
                    "mean gap, peak": spread(gap[v].max(axis=-1)),
                    "mean gap, end": spread(gap[v, :, -1]),
                }
            )
        points.append((name, values, gap, gained))
        prefix = name.replace("Algorithm ", "algorithm").replace(", ", "_")
        arrays |= {f"{prefix}_gap": gap, f"{prefix}_gained": gained, f"{prefix}_distilling": distilling}
    return Study(rows, draw(points, options.steps), arrays)


def draw(points, steps: int) -> Figure:
    """Reward gained against the gap averaged over training, after a quarter of the steps and after all.

    Args:
      points: (name of the algorithm, values of its knob, gap, share gained) with arrays (values, seeds, T).
      steps: of each run.

    Returns:
      Figure.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, fraction in zip(axes, (4, 1), strict=True):
        for name, values, gap, gained in points:
            colour, marker, offset, align = _STYLES[name]
            when = (gap.shape[-1] - 1) // fraction
            x, y = gap.mean(axis=(1, 2)), gained[:, :, when].mean(axis=1)
            axis.plot(x, y, marker=marker, color=colour, lw=1, ls=":", label=name)
            _annotate(axis, x, y, values, xytext=offset, ha=align, color=colour)
        axis.set(xscale="log", xlabel="mean gap, averaged over all steps (nats)")
        axis.set(ylabel="share of the possible reward gained", title=f"after {steps // fraction} gradient steps")
        axis.margins(x=0.08, y=0.1)
    tidy(*axes)
    title = "numbers at the points: n (Algorithm 1, with its tolerance in nats), beta (Algorithm 2)"
    legend_above(figure, axes[0], 3, title)
    return figure


def _annotate(axis, x: np.ndarray, y: np.ndarray, values, **style) -> None:
    """Write each point's value beside it; neighbours too close to tell apart share one label, first-last."""
    first = 0
    for v in range(len(values)):
        apart = v + 1 == len(values) or abs(np.log10(x[v + 1] / x[first])) > 0.1 or abs(y[v + 1] - y[first]) > 0.012
        if apart:
            label = f"{values[first]:g}" if v == first else f"{values[first]:g}-{values[v]:g}"
            axis.annotate(label, (x[v], y[v]), textcoords="offset points", fontsize=8, **style)
            first = v + 1
