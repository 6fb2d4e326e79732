"""The methods of figure 1 at one length and vocabulary."""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.tinydiffusion.studies.common import (
    Options,
    Study,
    by_method,
    plot_seeds,
    progress,
    seeded_runs,
    settings_of,
    spread,
    tidy,
)
from dipod_jax.tinydiffusion.training import train
from dipod_jax.twotoken.figures import COLOURS, LABELS, linestyle
from dipod_jax.twotoken.options import PAPER_METHODS


def run(options: Options) -> Study:
    """Train every method from every reward seed; gap, reward and cosine over steps."""
    settings = settings_of(options)
    runs = seeded_runs(options, PAPER_METHODS, [options.beta] * len(PAPER_METHODS))
    curves = by_method(train(settings, runs), len(PAPER_METHODS))
    share = progress(curves)
    rows = [
        {
            "method": LABELS[method],
            "mean gap, end": spread(curves.mean_gap[m, :, -1]),
            "mean gap, peak": spread(curves.mean_gap[m].max(axis=-1)),
            "largest gap, end": spread(curves.max_gap[m, :, -1], 3),
            "cosine, end": spread(curves.gradient_cosine[m, :, -1], 3),
            "reward gained": spread(share[m, :, -1], 3),
        }
        for m, method in enumerate(PAPER_METHODS)
    ]
    steps = settings.record_every * np.arange(curves.mean_gap.shape[-1])
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    gap_axis, cosine_axis, reward_axis = figure.subplots(1, 3)
    for m, method in enumerate(PAPER_METHODS):
        style = {"color": COLOURS[method], "ls": linestyle(method)}
        plot_seeds(gap_axis, steps, np.maximum(curves.mean_gap[m], 1e-6), label=LABELS[method], **style)
        plot_seeds(cosine_axis, steps, curves.gradient_cosine[m], **style)
        plot_seeds(reward_axis, steps, share[m], **style)
    gap_axis.set(
        yscale="log", ylim=(1e-5, None), title="mean gap $E_\\pi[\\log\\pi-\\mathrm{ELBO}]$ (nats)", xlabel="step"
    )
    cosine_axis.set(title="cosine(proxy gradient, policy gradient)", xlabel="step")
    reward_axis.set(title="share of the possible reward gained", xlabel="step")
    tidy(gap_axis, cosine_axis, reward_axis)
    figure.legend(*gap_axis.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return Study(rows, figure, {"steps": steps, "methods": np.array(PAPER_METHODS), **curves._asdict()})
