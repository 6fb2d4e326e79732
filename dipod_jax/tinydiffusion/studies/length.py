"""How the gap grows with L, at the end of a fixed number of updates and at equal reward gained."""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.tinydiffusion.studies.common import (
    Options,
    Study,
    by_method,
    progress,
    seeded_runs,
    settings_of,
    spread,
    tidy,
    value_when,
)
from dipod_jax.tinydiffusion.training import train
from dipod_jax.twotoken.figures import COLOURS, LABELS, linestyle
from dipod_jax.twotoken.options import PAPER_METHODS

MATCHED_PROGRESS = 0.8


def run(options: Options) -> Study:
    """All methods at every length from 2 to `options.length`."""
    lengths = range(2, options.length + 1)
    rows, at_end, matched = [], [], []
    for length in lengths:
        settings = settings_of(options, length=length)
        runs = seeded_runs(options, PAPER_METHODS, [options.beta] * len(PAPER_METHODS), length=length)
        curves = by_method(train(settings, runs), len(PAPER_METHODS))
        share = progress(curves)
        gap = np.asarray(curves.mean_gap)
        matched.append(value_when(gap, share >= MATCHED_PROGRESS))
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
                    "reward gained": spread(share[m, :, -1], 3),
                }
            )
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, values in zip(axes, (at_end, matched), strict=True):
        stacked = np.stack(values)  # (lengths, methods, seeds)
        for m, method in enumerate(PAPER_METHODS):
            # Only lengths at which every seed got there: a mean over the fast seeds alone would be another quantity.
            mean = stacked[:, m].mean(axis=-1)
            axis.plot(lengths, mean, "o", color=COLOURS[method], ls=linestyle(method), lw=2, label=LABELS[method])
            axis.plot(lengths, stacked[:, m], ".", color=COLOURS[method], ms=4, alpha=0.5)
        axis.set(yscale="log", xlabel="length L", xticks=list(lengths))
    axes[0].set_title(f"after {options.steps} updates")
    axes[1].set_title(f"where {MATCHED_PROGRESS:.0%} of the possible reward is gained")
    axes[0].set_ylabel("mean gap (nats); small dots: reward seeds")
    tidy(*axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    arrays = {"lengths": np.array(lengths), "methods": np.array(PAPER_METHODS)}
    return Study(rows, figure, arrays | {"gap_at_end": np.stack(at_end), "gap_matched": np.stack(matched)})
