"""The cost of a monotone drop of the EUBO: in self-distillation, and as a constraint on every update.

The EUBO here is Renyi's of order 2, an upper bound at every length. In distillation E_ref[EUBO] should fall to
E_ref[log pi_ref]; ascending the ELBO does not enforce it. In training the on-policy gap E_pi[EUBO - log pi] must not
rise. Both are enforced to first order, by projecting the step.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.distillation import Rule, drift_and_distil
from dipod_jax.toys.figures import COLOURS, LABELS
from dipod_jax.toys.studies.common import (
    Options,
    Study,
    largest_rise,
    plot_seeds,
    seeded_runs,
    settings_of,
    spread,
    tidy,
    train_methods,
)

RULES: dict[Rule, tuple[str, str]] = {
    "elbo": ("ascend ELBO", "#D55E00"),
    "monotone": ("ascend ELBO, EUBO never rises", "#0072B2"),
    "sandwich": ("ascend ELBO - EUBO", "#009E73"),
}
METHODS = ("fpo", "spg", "fpo+dipod", "policy-gradient")
CONVERGED = 1e-3  # nats of E_ref[log pi_ref - ELBO]
Arrays = dict[str, np.ndarray]


def run(options: Options) -> Study:
    """Distil a policy that FPO has drifted, by three rules; then train with and without the constraint."""
    if options.estimator != "exact":
        raise ValueError(f"estimator {options.estimator!r}: the monotone study has exact bounds only")
    options = options._replace(eubo="renyi", eubo_order=2.0)
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    axes = figure.subplots(2, 3)
    rows, arrays = _distillation(options, axes[0])
    more_rows, more_arrays = _training(options, axes[1])
    tidy(*axes.ravel())
    return Study(rows + more_rows, figure, arrays | more_arrays)


def _row(stage: str, rule: str, taken: str, rise: np.ndarray, reward: str, gap: str, upper: str) -> dict[str, str]:
    return {
        "stage": stage,
        "rule": rule,
        f"steps to {CONVERGED:g} nats": taken,
        "largest rise of the EUBO gap": spread(rise),
        "reward": reward,
        "mean gap, end": gap,
        "upper gap, end": upper,
    }


def _distillation(options: Options, axes) -> tuple[list[dict[str, str]], Arrays]:
    rows, arrays = [], {}
    steps = np.arange(options.steps + 1)
    settings = settings_of(options)
    for rule, (label, colour) in RULES.items():
        curves = drift_and_distil(settings, seeded_runs(settings, options.seeds, ["fpo"], 0.0), options.steps, rule)
        loss, upper = np.asarray(curves.loss), np.asarray(curves.eubo_excess)
        done = loss < CONVERGED
        taken = np.where(done.any(axis=-1), np.argmax(done, axis=-1).astype(float), np.nan)
        gained = curves.expected_reward[:, -1] - curves.expected_reward[:, 0]
        rows.append(
            _row(
                "self-distillation of a drifted FPO policy",
                label,
                spread(taken, 0),
                largest_rise(upper),
                spread(gained) + " (change)",
                spread(loss[:, -1] - curves.kl[:, -1], 5),
                spread(upper[:, -1] + curves.kl[:, -1], 5),
            )
        )
        # Dashed over solid: the first two coincide until late.
        style: dict[str, Any] = {"color": colour, "label": label, "ls": "--" if rule == "monotone" else "-"}
        for axis, values, floor in zip(axes, (loss, upper, curves.kl), (1e-7, 1e-7, 1e-9), strict=True):
            plot_seeds(axis, steps, values, floor=floor, **style)
        arrays |= {f"distil_{rule}_{name}": values for name, values in curves._asdict().items()}
    titles = ("$E_{ref}[\\log\\pi_{ref}-\\mathrm{ELBO}]$", "$E_{ref}[\\mathrm{EUBO}-\\log\\pi_{ref}]$")
    for axis, title in zip(axes, (*titles, "KL$(\\pi_{ref}|\\pi)$"), strict=True):
        axis.set(yscale="log", title=f"distilling: {title}", xlabel="distillation step")
    axes[2].legend(frameon=False, fontsize=9, loc="lower right")
    return rows, arrays


def _training(options: Options, axes) -> tuple[list[dict[str, str]], Arrays]:
    rows, arrays = [], {}
    for monotone in (False, True):
        steps, curves, gained = train_methods(options, METHODS, monotone=monotone)
        for m, method in enumerate(METHODS):
            upper = np.asarray(curves.upper_gap[m])
            rows.append(
                _row(
                    f"training, {LABELS[method]}",
                    "upper gap never rises" if monotone else "free",
                    "",
                    largest_rise(upper),
                    spread(gained[m, :, -1], 3) + " (gained)",
                    spread(curves.mean_gap[m, :, -1]),
                    spread(upper[:, -1]),
                )
            )
            label = LABELS[method] + (", constrained" if monotone else "")
            style: dict[str, Any] = {"color": COLOURS[method], "ls": "-" if monotone else "--", "label": label}
            plot_seeds(axes[0], steps, curves.mean_gap[m], floor=1e-6, **style)
            plot_seeds(axes[1], steps, upper, floor=1e-6, **style)
            plot_seeds(axes[2], steps, gained[m], **style)
        arrays |= {f"train_{'monotone' if monotone else 'free'}_{k}": v for k, v in curves._asdict().items()}
    axes[0].set(yscale="log", ylim=(1e-6, None), title="training: mean lower gap", xlabel="step")
    axes[1].set(yscale="log", ylim=(1e-6, None), title="training: mean upper gap (Renyi, order 2)", xlabel="step")
    axes[2].set(title="training: share of the possible reward gained", xlabel="step")
    axes[2].legend(frameon=False, fontsize=8, loc="lower right", title="the constrained curves coincide")
    return rows, arrays
