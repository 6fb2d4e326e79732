"""How large beta must be, relative to the most negative advantage, for the gap to close (docs/tinydiffusion.md).

With a fixed baseline, `A + beta > 0` for every sequence exactly when beta exceeds max |A^-|: FPO + DiPOD is then a
likelihood fit with positive weights throughout. With the on-policy baseline A moves; beta is scaled by its value at
the start.
"""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.toys.figures import COLOURS
from dipod_jax.toys.studies.common import (
    Options,
    Study,
    legend_above,
    random_rewards,
    spread,
    tidy,
    train_methods,
)

RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
BASELINES = ("uniform", "on-policy")
PROXIES = ("fpo", "spg")
_TITLES = ("mean gap at the end (nats)", "largest gap at the end (nats)", "share of the possible reward gained")


def run(options: Options) -> Study:
    """Sweep beta / max |A^-| for both proxies and both baselines."""
    rewards = random_rewards(options.vocab_size**options.length, options.seeds)
    most_negative = rewards.mean(axis=-1) - rewards.min(axis=-1)  # (seeds,): the start is the uniform policy
    betas = np.outer(RATIOS, most_negative)
    rows, arrays = [], {"ratios": np.array(RATIOS)}
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for baseline in BASELINES:
        for proxy in PROXIES:
            _, curves, gained = train_methods(options, [f"{proxy}+dipod"] * len(RATIOS), betas, baseline=baseline)
            measured = {"gap": np.asarray(curves.mean_gap), "max_gap": np.asarray(curves.max_gap), "gained": gained}
            rows += [_row(baseline, proxy, r, measured) for r in range(len(RATIOS))]
            arrays |= {f"{proxy}_{baseline}_{name}": values for name, values in measured.items()}
            style = {
                "color": COLOURS[proxy if baseline == "uniform" else f"{proxy}+dipod"],
                "ls": "--" if baseline == "uniform" else "-",
                "label": f"{proxy.upper()}, {baseline} baseline",
            }
            for axis, values in zip(axes, measured.values(), strict=True):
                axis.plot(RATIOS, values[..., -1].mean(axis=-1), marker="o", ms=4, **style)
    for axis, title in zip(axes, _TITLES, strict=True):
        axis.axvline(1.0, color="k", lw=0.8, ls=":")
        axis.set(title=title, xlabel="beta / max $|A^-|$ at the start")
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    tidy(*axes)
    legend_above(figure, axes[0], 4)
    return Study(rows, figure, arrays)


def _row(baseline: str, proxy: str, r: int, measured: dict[str, np.ndarray]) -> dict[str, str]:
    gap = measured["gap"][r]
    return {
        "baseline": baseline,
        "proxy": proxy.upper(),
        "beta / max abs A^-": f"{RATIOS[r]:g}",
        "mean gap, end": spread(gap[:, -1], 5),
        "end / peak": spread(gap[:, -1] / gap.max(axis=-1), 2),
        "largest gap, end": spread(measured["max_gap"][r, :, -1], 3),
        "reward gained": spread(measured["gained"][r, :, -1], 3),
    }
