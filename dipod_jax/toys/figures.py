"""Figure 1 as curves, and an animation of the six conditionals during training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipod_jax.toys.two_tokens import OUTPUTS, TwoTokenCurves

# One colour a proxy family (Okabe-Ito, safe for colour-blind readers); DiPOD's partner is the darker, solid one.
COLOURS = {
    "fpo": "#E69F00",
    "fpo+dipod": "#D55E00",
    "spg": "#56B4E9",
    "spg+dipod": "#0072B2",
    "policy-gradient": "#777777",
    "policy-gradient+dipod": "#000000",
}
LABELS = {
    "fpo": "FPO",
    "fpo+dipod": "FPO + DiPOD",
    "spg": "SPG",
    "spg+dipod": "SPG + DiPOD",
    "policy-gradient": "exact policy gradient",
    "policy-gradient+dipod": "exact policy gradient + DiPOD",
}
_GAP_FLOOR = 1e-5  # the bounds start exactly tight, which a log axis cannot show
_PANELS = (
    ("mean_gap", "mean gap  $E_\\pi[\\log\\pi-\\mathrm{ELBO}]$  (nats)"),
    ("max_gap", "largest gap over outputs  (nats)"),
    ("gradient_cosine", "cosine(proxy gradient, policy gradient)"),
    ("expected_reward", "expected reward  $E_\\pi[r]$"),
)


def linestyle(method: str) -> str:
    """Solid with DiPOD, dashed without, so that coinciding curves both stay visible."""
    return "-" if method.endswith("+dipod") else "--"


def draw_drift(curves: TwoTokenCurves, methods: Sequence[str], init_logits: Sequence[float], path: Path) -> None:
    """Gap (mean and largest), gradient cosine and reward over steps; one row per initialisation.

    Args:
      curves: from `two_tokens.train`, leading axes (M, I).
      methods: the M methods.
      init_logits: the I initial values.
      path: PNG to write.
    """
    rows = len(init_logits)
    figure = Figure(figsize=(16, 1.1 + 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, len(_PANELS), squeeze=False, sharex=True)
    steps = np.arange(curves.mean_gap.shape[-1])
    for row, logit in enumerate(init_logits):
        for axis, (name, title) in zip(axes[row], _PANELS, strict=True):
            values = getattr(curves, name)[:, row]
            for method, value in zip(methods, values, strict=True):
                axis.plot(steps, value, color=COLOURS[method], ls=linestyle(method), lw=2, label=LABELS[method])
            _finish(axis, name)
            if row == 0:
                axis.set_title(title, fontsize=11)
            if row == rows - 1:
                axis.set_xlabel("step")
        axes[row, 0].set_ylabel(f"all logits start at {logit:g}", fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False, fontsize=11)
    figure.savefig(path, dpi=100)


def _finish(axis: Axes, name: str) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if name.endswith("gap"):
        axis.set_yscale("log")
        axis.set_ylim(bottom=_GAP_FLOOR)


def animate_drift(
    curves: TwoTokenCurves, methods: Sequence[str], init_logits: Sequence[float], path: Path, num_frames: int = 40
) -> None:
    """The six probabilities over training beside the two orders' probabilities of each output, first init.

    Drawn for the first method without DiPOD and the first with it. Where the two bars of an output differ, the
    two orders disagree about it: that difference is the gap.

    Args:
      curves: from `two_tokens.train`, leading axes (M, I).
      methods: the M methods.
      init_logits: the I initial values.
      path: GIF to write.
      num_frames: frames, spread quadratically over the steps, since changes are fastest at the start.
    """
    plain = [i for i, m in enumerate(methods) if not m.endswith("+dipod")][:1]
    dipod = [i for i, m in enumerate(methods) if m.endswith("+dipod")][:1]
    shown = plain + dipod
    last = curves.mean_gap.shape[-1] - 1
    frames = np.unique(np.round(last * np.linspace(0, 1, num_frames) ** 2).astype(int))
    figure = Figure(figsize=(9.6, 0.7 + 2.7 * len(shown)))
    axes = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(6, 5))
    for row, method in enumerate(shown):
        _set_up(axes[row, 0], axes[row, 1], LABELS[methods[method]])
    # A layout fixed once: solving it anew for every frame is most of the time of a drawing.
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.12 / len(shown)))
    heading = figure.suptitle("", fontsize=12)

    def draw(step: int) -> None:
        for row, method in enumerate(shown):
            conditionals, first, second = axes[row, 0].containers[0], *axes[row, 1].containers
            probability_of_a = 1 / (1 + np.exp(-curves.logits[method, 0, step]))
            _set_heights(conditionals, probability_of_a[[index for index, _ in _BARS]])
            for bars, heights in zip((first, second), _order_probabilities(probability_of_a), strict=True):
                _set_heights(bars, heights)
            gap = curves.mean_gap[method, 0, step]
            axes[row, 1].set_title(f"probability by unmasking order; mean gap {gap:.4f}", fontsize=10)
        heading.set_text(f"logits start at {init_logits[0]:g}, step {step} of {last}")

    animation = FuncAnimation(figure, draw, frames=[*frames, *[last] * 8])  # type: ignore[arg-type]  # rest on the end
    animation.save(str(path), writer=PillowWriter(fps=8), dpi=70)


# The six logits in an order in which those of one position stand together.
_BARS = ((1, "$x_1|MM$"), (0, "$x_1|MA$"), (4, "$x_1|MB$"), (3, "$x_2|MM$"), (2, "$x_2|AM$"), (5, "$x_2|BM$"))


def _set_up(conditionals: Axes, orders: Axes, label: str) -> None:
    conditionals.bar(range(6), [0.0] * 6, color=["#0072B2"] * 3 + ["#009E73"] * 3)
    conditionals.set_xticks(range(6), [name for _, name in _BARS])
    conditionals.axhline(0.5, color="k", lw=0.5)
    conditionals.set_title(f"{label}: probability of A, six conditionals", fontsize=10)
    positions = np.arange(4)
    orders.bar(positions - 0.2, [0.0] * 4, 0.4, color="#E69F00", label="position 1 first")
    orders.bar(positions + 0.2, [0.0] * 4, 0.4, color="#CC79A7", label="position 2 first")
    orders.set_xticks(positions, OUTPUTS)
    orders.legend(frameon=False, fontsize=8, loc="upper left")
    orders.set_title("probability by unmasking order", fontsize=10)
    for axis in (conditionals, orders):
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)


def _set_heights(bars, heights: np.ndarray) -> None:
    for bar, height in zip(bars, heights, strict=True):
        bar.set_height(height)


def _order_probabilities(probability_of_a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(4,) and (4,): w1 and w2 of each output, in numpy, so that drawing a frame compiles nothing."""
    a, b, c, d, e, f = probability_of_a
    first = np.array([b * c, b * (1 - c), (1 - b) * f, (1 - b) * (1 - f)])
    second = np.array([d * a, (1 - d) * e, d * (1 - a), (1 - d) * (1 - e)])
    return first, second
