"""What changes when ELBO and EUBO are estimated from a few masks instead of summed over all."""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.figures import COLOURS, LABELS
from dipod_jax.toys.options import Estimator
from dipod_jax.toys.studies.common import Options, Study, legend_above, spread, tidy, train_methods

METHODS = ("fpo", "spg", "fpo+dipod", "spg+dipod")
ESTIMATES: tuple[tuple[Estimator, int], ...] = (
    ("exact", 1),
    *(("uniform", k) for k in (1, 2, 4, 8)),
    *(("antithetic", k) for k in (2, 4, 8)),
    *(("gdpo", k) for k in (1, 2, 3, 4)),
    *(("gdpo-bernoulli", k) for k in (1, 2, 3, 4)),
)


def run(options: Options) -> Study:
    """All estimators with all four proxy methods; the sum over sequences stays exact."""
    rows, measured = [], {"gap": [], "gained": [], "cosine": []}
    for estimator, num_draws in ESTIMATES:
        _, curves, gained = train_methods(options, METHODS, estimator=estimator, num_draws=num_draws)
        for values, new in zip(measured.values(), (curves.mean_gap, gained, curves.gradient_cosine), strict=True):
            values.append(new)
        row: dict[str, str] = {"estimator": estimator, "draws": "all" if estimator == "exact" else str(num_draws)}
        for m, method in enumerate(METHODS):
            row[f"{LABELS[method]}: gap"] = spread(curves.mean_gap[m, :, -1])
            row[f"{LABELS[method]}: gained"] = spread(gained[m, :, -1], 3)
        rows.append(row)
    arrays = {name: np.stack(values) for name, values in measured.items()}
    names = {"estimators": np.array([f"{n}-{k}" for n, k in ESTIMATES]), "methods": np.array(METHODS)}
    return Study(rows, _draw(**arrays), names | arrays)


def _draw(gap: np.ndarray, gained: np.ndarray, cosine: np.ndarray) -> Figure:
    """Three rows of dots, one column an estimator; arrays (estimators, methods, seeds, T)."""
    # The mean over the second half of training: a single step's stochastic gradient is one draw.
    panels = (
        (gap[..., -1], "mean gap, end (nats)"),
        (gained[..., -1], "reward gained"),
        (cosine[..., cosine.shape[-1] // 2 :].mean(axis=-1), "cosine with the true\ngradient, second half"),
    )
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, (values, title) in zip(axes, panels, strict=True):
        for m, method in enumerate(METHODS):
            x = np.arange(len(ESTIMATES)) + 0.16 * (m - 1.5)
            axis.plot(x, values[:, m].mean(axis=-1), "o", color=COLOURS[method], label=LABELS[method])
            axis.plot(x, values[:, m], ".", color=COLOURS[method], ms=4, alpha=0.5)
        axis.set_ylabel(title)
        for boundary in (0.5, 4.5, 7.5, 11.5):
            axis.axvline(boundary, color="k", lw=0.5)
    axes[0].set_yscale("log")
    axes[0].set_title(" ")  # keeps the height for the groups' names
    for estimator in dict.fromkeys(name for name, _ in ESTIMATES):
        places = [i for i, (name, _) in enumerate(ESTIMATES) if name == estimator]
        axes[0].text(np.mean(places), 1.03, estimator, transform=axes[0].get_xaxis_transform(), ha="center")
    axes[-1].set_xticks(range(len(ESTIMATES)), ["all" if name == "exact" else str(k) for name, k in ESTIMATES])
    axes[-1].set_xlabel("draws per sequence (large dots: mean; small: reward seeds)")
    tidy(*axes)
    legend_above(figure, axes[0], 4)
    return figure
