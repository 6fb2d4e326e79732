"""What changes when ELBO and EUBO are estimated from a few masks instead of summed over all."""

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
)
from dipod_jax.tinydiffusion.training import train
from dipod_jax.twotoken.figures import COLOURS, LABELS

METHODS = ("fpo", "spg", "fpo+dipod", "spg+dipod")
ESTIMATES = (
    ("exact", 1),
    *(("uniform", k) for k in (1, 2, 4, 8)),
    *(("antithetic", k) for k in (2, 4, 8)),
    *(("gdpo", k) for k in (1, 2, 3, 4)),
    *(("gdpo-bernoulli", k) for k in (1, 2, 3, 4)),
)


def run(options: Options) -> Study:
    """All estimators with all four proxy methods; the sum over sequences stays exact."""
    rows, gaps, gained, cosines = [], [], [], []
    for estimator, num_draws in ESTIMATES:
        settings = settings_of(options, estimator=estimator, num_draws=num_draws)
        curves = by_method(train(settings, seeded_runs(options, METHODS, [options.beta] * len(METHODS))), len(METHODS))
        share = progress(curves)
        gaps.append(curves.mean_gap)
        gained.append(share)
        cosines.append(curves.gradient_cosine)
        row = {"estimator": estimator, "draws": "all" if estimator == "exact" else str(num_draws)}
        for m, method in enumerate(METHODS):
            row[f"{LABELS[method]}: gap"] = spread(curves.mean_gap[m, :, -1])
            row[f"{LABELS[method]}: gained"] = spread(share[m, :, -1], 3)
        rows.append(row)
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    names = ["all" if name == "exact" else str(k) for name, k in ESTIMATES]
    # The mean over the second half of training: a single step's stochastic gradient is one draw.
    half = np.stack(cosines).shape[-1] // 2
    panels = (
        (np.stack(gaps)[..., -1], "mean gap, end (nats)"),
        (np.stack(gained)[..., -1], "reward gained"),
        (np.stack(cosines)[..., half:].mean(axis=-1), "cosine with the true\ngradient, second half"),
    )
    for axis, (values, title) in zip(axes, panels, strict=True):
        for m, method in enumerate(METHODS):
            x = np.arange(len(names)) + 0.16 * (m - 1.5)
            axis.plot(x, values[:, m].mean(axis=-1), "o", color=COLOURS[method], label=LABELS[method])
            axis.plot(x, values[:, m], ".", color=COLOURS[method], ms=4, alpha=0.5)
        axis.set_ylabel(title)
        for boundary in (0.5, 4.5, 7.5, 11.5):
            axis.axvline(boundary, color="k", lw=0.5)
    axes[0].set_yscale("log")
    for estimator in dict.fromkeys(name for name, _ in ESTIMATES):
        places = [i for i, (name, _) in enumerate(ESTIMATES) if name == estimator]
        axes[0].set_title(" ")  # keeps the height for the groups' names
        axes[0].text(np.mean(places), 1.03, estimator, transform=axes[0].get_xaxis_transform(), ha="center")
    axes[-1].set_xticks(range(len(names)), names)
    axes[-1].set_xlabel("draws per sequence (large dots: mean; small: reward seeds)")
    tidy(*axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    arrays = {"estimators": np.array([f"{n}-{k}" for n, k in ESTIMATES]), "methods": np.array(METHODS)}
    return Study(
        rows, figure, arrays | {"gap": np.stack(gaps), "gained": np.stack(gained), "cosine": np.stack(cosines)}
    )
