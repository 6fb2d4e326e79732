"""The methods of figure 1 at one length and vocabulary."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.figures import COLOURS, LABELS, linestyle
from dipod_jax.toys.options import PAPER_METHODS
from dipod_jax.toys.studies.common import Options, Study, legend_above, plot_seeds, spread, tidy, train_methods


def run(options: Options) -> Study:
    """Train every method from every reward seed; gap, reward and cosine over steps."""
    steps, curves, gained = train_methods(options, PAPER_METHODS)
    rows = [
        {
            "method": LABELS[method],
            "mean gap, end": spread(curves.mean_gap[m, :, -1]),
            "mean gap, peak": spread(curves.mean_gap[m].max(axis=-1)),
            "largest gap, end": spread(curves.max_gap[m, :, -1], 3),
            "cosine, end": spread(curves.gradient_cosine[m, :, -1], 3),
            "reward gained": spread(gained[m, :, -1], 3),
        }
        for m, method in enumerate(PAPER_METHODS)
    ]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    gap_axis, cosine_axis, reward_axis = figure.subplots(1, 3)
    for m, method in enumerate(PAPER_METHODS):
        style: dict[str, Any] = {"color": COLOURS[method], "ls": linestyle(method), "label": LABELS[method]}
        plot_seeds(gap_axis, steps, curves.mean_gap[m], floor=1e-6, **style)
        plot_seeds(cosine_axis, steps, curves.gradient_cosine[m], **style)
        plot_seeds(reward_axis, steps, gained[m], **style)
    gap_axis.set(yscale="log", ylim=(1e-5, None), title="mean gap $E_\\pi[\\log\\pi-\\mathrm{ELBO}]$ (nats)")
    cosine_axis.set(title="cosine(proxy gradient, policy gradient)")
    reward_axis.set(title="share of the possible reward gained")
    for axis in (gap_axis, cosine_axis, reward_axis):
        axis.set_xlabel("step")
        tidy(axis)
    legend_above(figure, gap_axis, 5)
    return Study(rows, figure, {"steps": steps, "methods": np.array(PAPER_METHODS), **curves._asdict()})
