"""What the rounds left, as rows of a table and as a picture."""

from pathlib import Path
from typing import Any

from dipod_jax.viz._style import COLOURS, MEAN_WIDTH, PALE_INK, figure, title_left

KEPT = 0.05  # a standard deviation that ends within this of its start counts as kept


def row(record: dict[str, Any]) -> dict[str, str]:
    """One arm's row."""
    kept = "kept" if abs(record["ratio"] - 1.0) <= KEPT else "lost"
    return {
        "sampler": record["name"],
        "std, start": f"{record['std'][0]:.4f}",
        "std, end": f"{record['std'][-1]:.4f}",
        "ratio": f"{record['ratio']:.3f} ({kept})",
        "theory": f"{record['theory']:.3f}",
        "gap, start": f"{record['gap_before']:.3f}",
        "gap, end": f"{record['gap_after']:.3f}",
    }


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the standard deviation over its start, round by round, one colour per arm; arms with own pairs dashed."""
    with figure(path, 8.0, 4.8) as drawing:
        axes = drawing.subplots()
        for index, record in enumerate(records):
            ratios = [value / record["std"][0] for value in record["std"]]
            colour = (*COLOURS, PALE_INK)[index % (len(COLOURS) + 1)]
            style = "--" if record["own_pairs"] else "-"
            label = f"{record['name']} ({ratios[-1]:.2f})"
            axes.plot(range(len(ratios)), ratios, style, color=colour, linewidth=MEAN_WIDTH, label=label)
        axes.axhspan(1 - KEPT, 1 + KEPT, color="0.9", zorder=0, label=f"within {KEPT:.0%}")
        axes.set(xlabel="round of self-distillation", ylabel="standard deviation / its start", ylim=(0.0, None))
        axes.margins(x=0.01)
        drawing.legend(loc="outside right upper", title="sampler (last value)")
        title_left(drawing, "Distilling a flow policy on its own actions")
