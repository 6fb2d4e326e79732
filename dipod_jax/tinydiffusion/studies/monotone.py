"""What a monotone drop of the EUBO costs: in self-distillation, and as a constraint on every update.

The EUBO here is Renyi's of order 2, an upper bound at every length. In distillation E_ref[EUBO] ought to fall to
E_ref[log pi_ref]; ascending the ELBO does not ask for it. In training the on-policy gap E_pi[EUBO - log pi] must not
rise. Both are enforced to first order, by projecting the step.
"""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.tinydiffusion.distillation import drift_and_distil
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
from dipod_jax.twotoken.figures import COLOURS, LABELS

RULES = ("elbo", "monotone", "sandwich")
RULE_LABELS = {
    "elbo": "ascend ELBO",
    "monotone": "ascend ELBO, EUBO never rises",
    "sandwich": "ascend ELBO - EUBO",
}
_RULE_COLOURS = {"elbo": "#D55E00", "monotone": "#0072B2", "sandwich": "#009E73"}
METHODS = ("fpo", "spg", "fpo+dipod", "policy-gradient")
CONVERGED = 1e-3  # nats of E_ref[log pi_ref - ELBO]


def run(options: Options) -> Study:
    """Distil a policy that FPO has drifted, by three rules; then train with and without the constraint."""
    if options.estimator != "exact":
        raise ValueError("the monotone study has exact bounds only")
    options = options._replace(eubo="renyi", eubo_order=2.0)
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    axes = figure.subplots(2, 3)
    rows, arrays = _distillation(options, axes[0])
    more_rows, more_arrays = _training(options, axes[1])
    tidy(*axes.ravel())
    return Study(rows + more_rows, figure, arrays | more_arrays)


def _distillation(options: Options, axes) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    rows, arrays = [], {}
    steps = np.arange(options.steps + 1)
    for rule in RULES:
        runs = seeded_runs(options, ["fpo"], [0.0])
        curves = drift_and_distil(settings_of(options), runs, options.steps, rule)
        loss, upper = np.asarray(curves.loss), np.asarray(curves.eubo_excess)
        done = loss < CONVERGED
        taken = np.where(done.any(axis=-1), np.argmax(done, axis=-1).astype(float), np.nan)
        rise = np.max(upper - np.minimum.accumulate(upper, axis=-1), axis=-1)
        rows.append(
            {
                "stage": "self-distillation of a drifted FPO policy",
                "rule": RULE_LABELS[rule],
                f"steps to {CONVERGED:g} nats": spread(taken, 0),
                "largest rise of the EUBO gap": spread(rise),
                "reward": spread(curves.expected_reward[:, -1] - curves.expected_reward[:, 0]) + " (change)",
                "mean gap, end": spread(loss[:, -1] - curves.kl[:, -1], 5),
                "upper gap, end": spread(upper[:, -1] + curves.kl[:, -1], 5),
            }
        )
        # Dashed over solid: the first two coincide until late.
        style = {"color": _RULE_COLOURS[rule], "label": RULE_LABELS[rule], "ls": "--" if rule == "monotone" else "-"}
        plot_seeds(axes[0], steps, np.maximum(loss, 1e-7), **style)
        plot_seeds(axes[1], steps, np.maximum(upper, 1e-7), **style)
        plot_seeds(axes[2], steps, np.maximum(curves.kl, 1e-9), **style)
        arrays |= {f"distil_{rule}_{name}": values for name, values in curves._asdict().items()}
    axes[0].set(yscale="log", title="distilling: $E_{ref}[\\log\\pi_{ref}-\\mathrm{ELBO}]$", xlabel="distillation step")
    axes[1].set(yscale="log", title="distilling: $E_{ref}[\\mathrm{EUBO}-\\log\\pi_{ref}]$", xlabel="distillation step")
    axes[2].set(yscale="log", title="distilling: KL$(\\pi_{ref}|\\pi)$", xlabel="distillation step")
    axes[2].legend(frameon=False, fontsize=9, loc="lower right")
    return rows, arrays


def _training(options: Options, axes) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    rows, arrays = [], {}
    for monotone in (False, True):
        settings = settings_of(options, monotone=monotone)
        curves = by_method(train(settings, seeded_runs(options, METHODS, [options.beta] * len(METHODS))), len(METHODS))
        share = progress(curves)
        steps = settings.record_every * np.arange(share.shape[-1])
        for m, method in enumerate(METHODS):
            upper = np.asarray(curves.upper_gap[m])
            rows.append(
                {
                    "stage": f"training, {LABELS[method]}",
                    "rule": "upper gap never rises" if monotone else "free",
                    f"steps to {CONVERGED:g} nats": "",
                    "largest rise of the EUBO gap": spread(
                        np.max(upper - np.minimum.accumulate(upper, axis=-1), axis=-1)
                    ),
                    "reward": spread(share[m, :, -1], 3) + " (gained)",
                    "mean gap, end": spread(curves.mean_gap[m, :, -1]),
                    "upper gap, end": spread(upper[:, -1]),
                }
            )
            style = {"color": COLOURS[method], "ls": "-" if monotone else "--"}
            label = LABELS[method] + (", constrained" if monotone else "")
            plot_seeds(axes[0], steps, np.maximum(curves.mean_gap[m], 1e-6), label=label, **style)
            plot_seeds(axes[1], steps, np.maximum(upper, 1e-6), **style)
            plot_seeds(axes[2], steps, share[m], **style)
        arrays |= {f"train_{'monotone' if monotone else 'free'}_{k}": v for k, v in curves._asdict().items()}
    axes[0].set(yscale="log", ylim=(1e-6, None), title="training: mean lower gap", xlabel="step")
    axes[1].set(yscale="log", ylim=(1e-6, None), title="training: mean upper gap (Renyi, order 2)", xlabel="step")
    axes[2].set(title="training: share of the possible reward gained", xlabel="step")
    handles = axes[0].get_legend_handles_labels()
    axes[2].legend(*handles, frameon=False, fontsize=8, loc="lower right", title="the constrained curves coincide")
    return rows, arrays
