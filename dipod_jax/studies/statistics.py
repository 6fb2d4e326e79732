"""What a few seeds on a few tasks say, and how sure that is (Agarwal et al. 2021, arXiv 2108.13264).

Scores come as one array per task (a stratum), seeds along the last axis; tasks may have different numbers of seeds.
Every statistic takes such a list and reduces the last axis, so that the same function serves the scores themselves, R
resamples of them at once, and curves whose points stand on the axes before.

The intervals are percentile bootstraps. They know the seeds that were drawn and nothing of those that were not: with
few seeds they are too narrow (`COVERAGE`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# Seeds a task -> how often the interval of the mean holds the truth, on one task and over four, of Gaussian scores.
# Measured by tests/studies/test_study_statistics.py.
COVERAGE = {3: (0.73, 0.83), 8: (0.89, 0.92), 20: (0.92, 0.94)}

Scores = Sequence[np.ndarray]
Statistic = Callable[[Scores], np.ndarray]


class Interval(NamedTuple):
    """A statistic and its 95 % interval: floats, or arrays of one shape. The bounds are nan where there is none."""

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float


def mean(scores: Scores) -> np.ndarray:
    """1/M sum_m mean_n x_mn over M tasks: each task counts the same, however many seeds it has."""
    return np.mean([task.mean(-1) for task in scores], axis=0)


def interquartile_mean(scores: Scores) -> np.ndarray:
    """Mean of the middle half of all seeds of all tasks (section 4.3 of the paper): less swayed by outliers than the
    mean, less wasteful than the median.

    `scipy.stats.trim_mean`: floor(N / 4) of N seeds are cut off at each end, none of fewer than four.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1))


def bootstrap(statistic: Statistic, scores: Scores, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Interval:
    """`statistic` with its stratified percentile bootstrap interval (section 4.1 of the paper).

    Each of R resamples draws, in every task by itself, as many seeds as the task has, with replacement; the interval
    is from the 2.5th to the 97.5th percentile of the statistic over the resamples. The tasks are taken as given: it
    says nothing of tasks that were not run.

    Args:
        statistic: of arrays (..., n_m), which it reduces over the last axis.
        scores: one array (..., n_m) per task.
        seed: of the draws; the same gives the same interval.
        num_resamples: R.

    Returns:
        No bounds (nan) where a task has a single seed: of the spread over seeds it says nothing.
    """
    value = np.asarray(statistic(scores))
    if any(task.shape[-1] < 2 for task in scores):
        nothing = np.full_like(value, np.nan, dtype=float)
        return Interval(value[()], nothing[()], nothing[()])
    rng = np.random.default_rng(seed)
    resamples = statistic([_resampled(task, rng, num_resamples) for task in scores])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail], axis=0)
    return Interval(value[()], low[()], high[()])


def _resampled(task: np.ndarray, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
    """(..., n) to (R, ..., n): along a curve, a resample takes the same seeds at every point."""
    n = task.shape[-1]
    return np.moveaxis(task[..., rng.integers(n, size=(num_resamples, n))], -2, 0)


def probability_of_improvement(treated: Scores, control: Scores, *, seed: int = 0) -> Interval:
    """How likely a seed of the one returns more than a seed of the other, on a task drawn at random.

        1/M sum_m 1/(N_m K_m) sum_ij [x_mi > y_mj] + 1/2 [x_mi = y_mj]

    (section 4.3 of the paper; per task it is the Mann-Whitney U over N K.) 0.5 is no difference; it does not say by
    how much. Both sides are resampled.

    Args:
        treated: x, one array (N_m,) per task.
        control: y, one array (K_m,) per task, of the same tasks in the same order.
    """
    return _of_two(_share_of_better_pairs, treated, control, seed)


def difference_of_means(treated: Scores, control: Scores, *, seed: int = 0) -> Interval:
    """By how much the one returns more than the other: mean of x minus mean of y, each as `mean`, both resampled.

    Args:
        treated: x, one array (N_m,) per task.
        control: y, one array (K_m,) per task, of the same tasks in the same order.
    """
    return _of_two(lambda x, y: mean(x) - mean(y), treated, control, seed)


def performance_profile(scores: Scores, thresholds: np.ndarray, *, seed: int = 0) -> Interval:
    """Share of seeds that return more than each threshold (equation 2 of the paper), with a pointwise band.

        F(tau) = 1/M sum_m 1/N_m sum_n [x_mn > tau]

    Args:
        scores: one array (N_m,) per task, on one scale.
        thresholds: (P,).

    Returns:
        Arrays (P,) in [0, 1].
    """
    levels = thresholds[:, None]
    return bootstrap(lambda tasks: mean([(task[..., None, :] > levels) for task in tasks]), scores, seed=seed)


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of the curve along x: integral of y by the trapezoid rule over (x_last - x_first), in units of y.

    Of returns over env steps it tells early learning from late. Only curves over the same span compare.

    Args:
        x: (P,), rising, P >= 1.
        y: (P,).
    """
    return float(y[0]) if len(x) == 1 else float(np.trapezoid(y, x) / (x[-1] - x[0]))


def _of_two(compare: Callable[[Scores, Scores], np.ndarray], treated: Scores, control: Scores, seed: int) -> Interval:
    if len(treated) != len(control):
        raise ValueError(f"{len(treated)} tasks against {len(control)}; both sides need the same")
    m = len(treated)
    return bootstrap(lambda both: compare(both[:m], both[m:]), [*treated, *control], seed=seed)


def _share_of_better_pairs(treated: Scores, control: Scores) -> np.ndarray:
    shares = []
    for x, y in zip(treated, control, strict=True):
        difference = x[..., :, None] - y[..., None, :]
        shares.append(((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1)))
    return np.mean(shares, axis=0)
