"""Records of several seeds as curves: numpy only, so that the content of a plot can be tested as numbers."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Curve(NamedTuple):
    """`y` over `x`, both float64 of shape (P,), `x` rising."""

    x: np.ndarray
    y: np.ndarray


def curves_by_seed(records: Iterable[dict[str, Any]], x: str, y: str) -> dict[int, Curve]:
    """One curve per `seed` of the records that hold finite numbers under both `x` and `y`; others are left out.

    A record without a `seed` counts as seed 0. Points are sorted by `x`; of several at one `x` the last is kept, which
    a resumed run has rewritten.
    """
    points: dict[int, dict[float, float]] = {}
    for record in records:
        if _is_number(record.get(x)) and _is_number(record.get(y)):
            points.setdefault(int(record.get("seed", 0)), {})[float(record[x])] = float(record[y])
    return {
        seed: Curve(np.array(sorted(by_x)), np.array([by_x[position] for position in sorted(by_x)]))
        for seed, by_x in sorted(points.items())
    }


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Mean over seeds of the linearly interpolated curves, where all of them have data.

    The points are those of any seed between the latest first point and the earliest last one, so that no seed is
    extrapolated and the number of seeds averaged never changes along the line. Empty where they do not overlap.
    """
    curves = list(curves)
    if not curves:
        return Curve(np.empty(0), np.empty(0))
    first = max(curve.x[0] for curve in curves)
    last = min(curve.x[-1] for curve in curves)
    grid = np.unique(np.concatenate([curve.x for curve in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    if grid.size == 0:
        return Curve(grid, grid)
    return Curve(grid, np.mean([np.interp(grid, curve.x, curve.y) for curve in curves], axis=0))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
