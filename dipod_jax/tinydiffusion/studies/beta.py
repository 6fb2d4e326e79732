"""Where beta must lie relative to the most negative advantage for the gap to close (docs/tinydiffusion.md).

With a fixed baseline, `A + beta > 0` for every sequence exactly when beta exceeds max |A^-|: FPO + DiPOD is then a
likelihood fit with positive weights throughout. With the on-policy baseline A moves; beta is scaled by its value at
the start.
"""

import numpy as np
from matplotlib.figure import Figure

from dipod_jax.tinydiffusion.studies.common import (
    Options,
    Study,
    progress,
    random_rewards,
    settings_of,
    spread,
    tidy,
)
from dipod_jax.tinydiffusion.training import make_runs, train
from dipod_jax.twotoken.figures import COLOURS

RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
BASELINES = ("uniform", "on-policy")
PROXIES = ("fpo", "spg")


def run(options: Options) -> Study:
    """Sweep beta / max |A^-| for both proxies and both baselines."""
    rewards = random_rewards(options.vocab_size**options.length, options.seeds)
    most_negative = rewards.mean(axis=-1) - rewards.min(axis=-1)  # (seeds,): the start is the uniform policy
    rows, arrays = [], {"ratios": np.array(RATIOS)}
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for baseline in BASELINES:
        settings = settings_of(options, baseline=baseline)
        for proxy in PROXIES:
            runs = make_runs(
                [f"{proxy}+dipod"] * (len(RATIOS) * options.seeds),
                np.outer(RATIOS, most_negative).ravel(),
                np.tile(rewards, (len(RATIOS), 1)),
                np.tile(np.arange(options.seeds), len(RATIOS)),
            )
            curves = train(settings, runs)
            shape = (len(RATIOS), options.seeds, -1)
            gap = np.asarray(curves.mean_gap).reshape(shape)
            worst = np.asarray(curves.max_gap).reshape(shape)
            share = progress(curves).reshape(shape)
            for r, ratio in enumerate(RATIOS):
                rows.append(
                    {
                        "baseline": baseline,
                        "proxy": proxy.upper(),
                        "beta / max abs A^-": f"{ratio:g}",
                        "mean gap, end": spread(gap[r, :, -1], 5),
                        "end / peak": spread(gap[r, :, -1] / gap[r].max(axis=-1), 2),
                        "largest gap, end": spread(worst[r, :, -1], 3),
                        "reward gained": spread(share[r, :, -1], 3),
                    }
                )
            style = {
                "color": COLOURS[proxy if baseline == "uniform" else f"{proxy}+dipod"],
                "ls": "--" if baseline == "uniform" else "-",
                "label": f"{proxy.upper()}, {baseline} baseline",
                "marker": "o",
                "ms": 4,
            }
            for axis, values in zip(axes, (gap, worst, share), strict=True):
                axis.plot(RATIOS, values[..., -1].mean(axis=-1), **style)
            arrays |= {f"{proxy}_{baseline}_{k}": v for k, v in (("gap", gap), ("max_gap", worst), ("gained", share))}
    titles = ("mean gap at the end (nats)", "largest gap at the end (nats)", "share of the possible reward gained")
    for axis, title in zip(axes, titles, strict=True):
        axis.axvline(1.0, color="k", lw=0.8, ls=":")
        axis.set(title=title, xlabel="beta / max $|A^-|$ at the start")
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    tidy(*axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return Study(rows, figure, arrays)
