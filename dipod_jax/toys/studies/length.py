"""How the gap grows with L, at the end of a fixed number of updates and at equal reward gained."""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.figures import COLOURS, LABELS, linestyle
from dipod_jax.toys.options import PAPER_METHODS
from dipod_jax.toys.studies.common import Options, Study, legend_above, spread, tidy, train_methods, value_when

MATCHED_PROGRESS = 0.8


def run(options: Options) -> Study:
    """All methods at every length from 2 to `options.length`."""
    lengths = range(2, options.length + 1)
    rows, at_end, matched = [], [], []
    for length in lengths:
        _, curves, gained = train_methods(options, PAPER_METHODS, length=length)
        gap = np.asarray(curves.mean_gap)
        matched.append(value_when(gap, gained >= MATCHED_PROGRESS))
        at_end.append(gap[..., -1])
        for m, method in enumerate(PAPER_METHODS):
            rows.append(
                {
                    "L": str(length),
                    "method": LABELS[method],
                    "mean gap, end": spread(gap[m, :, -1]),
                    "mean gap, peak": spread(gap[m].max(axis=-1)),
                    f"mean gap at {MATCHED_PROGRESS:.0%} gained": spread(matched[-1][m]),
                    "cosine, end": spread(curves.gradient_cosine[m, :, -1], 3),
                    "reward gained": spread(gained[m, :, -1], 3),
                }
            )
    arrays = {"lengths": np.array(lengths), "methods": np.array(PAPER_METHODS)}
    arrays |= {"gap_at_end": np.stack(at_end), "gap_matched": np.stack(matched)}
    titles = (f"after {options.steps} updates", f"where {MATCHED_PROGRESS:.0%} of the possible reward is gained")
    return Study(rows, _draw(lengths, (arrays["gap_at_end"], arrays["gap_matched"]), titles), arrays)


def _draw(lengths: range, panels: tuple[np.ndarray, ...], titles: tuple[str, ...]) -> Figure:
    """Gap against length; each panel is (lengths, methods, seeds)."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, values, title in zip(axes, panels, titles, strict=True):
        for m, method in enumerate(PAPER_METHODS):
            # Only lengths at which every seed got there: a mean over the fast seeds alone would be another quantity.
            mean = values[:, m].mean(axis=-1)
            axis.plot(lengths, mean, "o", color=COLOURS[method], ls=linestyle(method), lw=2, label=LABELS[method])
            axis.plot(lengths, values[:, m], ".", color=COLOURS[method], ms=4, alpha=0.5)
        axis.set(yscale="log", xlabel="length L", xticks=list(lengths), title=title)
    axes[0].set_ylabel("mean gap (nats); small dots: reward seeds")
    tidy(*axes)
    legend_above(figure, axes[0], 5)
    return figure
