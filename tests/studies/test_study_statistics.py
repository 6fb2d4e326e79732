"""The numbers that a study's report gives, against numbers by hand, scipy's, and simulated studies."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import mannwhitneyu

from dipod_jax.studies.statistics import (
    COVERAGE,
    area_under_curve,
    bootstrap,
    difference_of_means,
    interquartile_mean,
    mean,
    performance_profile,
    probability_of_improvement,
)

TASKS = [np.array([1.0, 2.0, 3.0, 10.0]), np.array([0.0, 6.0])]


def test_the_mean_counts_every_task_the_same():
    assert mean(TASKS) == pytest.approx((4 + 3) / 2)


def test_the_interquartile_mean_is_of_the_middle_half_of_all_seeds():
    assert interquartile_mean(TASKS) == pytest.approx((1 + 2 + 3 + 6) / 4)  # of 0 1 2 3 6 10, one off each end
    assert interquartile_mean([np.array([1.0, 2.0, 9.0])]) == pytest.approx(4.0)  # nothing is cut off three


def test_the_interval_of_one_task_is_scipy_s_percentile_bootstrap():
    scores = np.random.default_rng(1).normal(500, 100, 12)
    mine = bootstrap(mean, [scores], num_resamples=20_000)
    theirs = scipy_bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    bounds = theirs.confidence_interval
    assert mine.value == scores.mean()
    np.testing.assert_allclose([mine.low, mine.high], [bounds.low, bounds.high], atol=2.0)


def test_seeds_are_resampled_within_their_task():
    """Tasks far apart, each without spread: seeds that changed their task would move the mean."""
    interval = bootstrap(mean, [np.full(3, 10.0), np.full(5, 900.0)])
    assert interval == (455.0, 455.0, 455.0)


def test_two_seeds_have_the_interval_of_their_four_equally_likely_resamples():
    assert bootstrap(mean, [np.array([0.0, 100.0])]) == (50.0, 0.0, 100.0)


def test_the_same_seed_gives_the_same_interval_and_another_a_near_one():
    scores = [np.random.default_rng(3).normal(size=9)]
    assert bootstrap(mean, scores, seed=4) == bootstrap(mean, scores, seed=4)
    assert bootstrap(mean, scores, seed=4).low == pytest.approx(bootstrap(mean, scores, seed=5).low, abs=0.1)


def test_a_single_seed_has_no_interval():
    interval = bootstrap(mean, [np.array([7.0]), np.array([1.0, 2.0])])
    assert interval.value == 4.25 and np.isnan([interval.low, interval.high]).all()


def test_along_a_curve_a_resample_takes_the_same_seeds_at_every_point():
    curves = np.array([[0.0, 10.0, 20.0], [100.0, 110.0, 120.0]])  # (2 points, 3 seeds)
    band = bootstrap(mean, [curves])
    np.testing.assert_allclose(band.value, [10, 110])
    np.testing.assert_allclose(np.asarray(band.high) - np.asarray(band.value), 2 * [float(band.high[0]) - 10])


def test_the_probability_of_improvement_counts_pairs_and_half_of_the_ties():
    x, y = np.array([3.0, 5.0]), np.array([3.0, 4.0, 1.0])
    assert probability_of_improvement([x], [y]).value == pytest.approx((0.5 + 0 + 1 + 3) / 6)
    assert probability_of_improvement([x], [y]).value == pytest.approx(mannwhitneyu(x, y).statistic / 6)
    assert probability_of_improvement([x, y], [y, x]).value == pytest.approx(0.5)


def test_an_improvement_on_every_pair_is_certain_among_these_seeds():
    assert probability_of_improvement([np.array([5.0, 6.0])], [np.array([1.0, 2.0])]) == (1.0, 1.0, 1.0)


def test_the_difference_of_means_is_that_of_the_tasks_means():
    difference = difference_of_means(TASKS, [np.array([1.0, 1.0]), np.array([3.0, 5.0])])
    assert difference.value == pytest.approx(3.5 - 2.5)
    assert difference.low < 1.0 < difference.high


def test_two_sides_of_different_tasks_are_refused():
    with pytest.raises(ValueError, match="2 tasks against 1"):
        difference_of_means(TASKS, TASKS[:1])


def test_the_profile_is_the_share_of_seeds_above_each_threshold():
    profile = performance_profile(TASKS, np.array([-1.0, 0.0, 2.0, 9.0, 10.0]))
    np.testing.assert_allclose(profile.value, [1, (1 + 0.5) / 2, (0.5 + 0.5) / 2, 0.125, 0])
    assert np.all(profile.low <= profile.value) and np.all(profile.value <= profile.high)


def test_the_area_under_a_curve_is_its_mean_along_x():
    x = np.array([0.0, 1.0, 3.0])
    assert area_under_curve(x, np.array([0.0, 100.0, 100.0])) == pytest.approx((50 + 200) / 3)
    assert area_under_curve(x[:1], np.array([4.0])) == 4.0


def covered(num_tasks: int, num_seeds: int, studies: int = 400) -> float:
    """Share of simulated studies whose interval of the mean holds the true mean; tasks differ in mean and spread."""
    rng = np.random.default_rng(100 * num_tasks + num_seeds)
    spreads = 50.0 * np.arange(1, num_tasks + 1)
    hits = 0
    for study in range(studies):
        interval = bootstrap(mean, [rng.normal(500, s, num_seeds) for s in spreads], seed=study, num_resamples=1000)
        hits += interval.low <= 500 <= interval.high
    return hits / studies


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 8, 20])
@pytest.mark.parametrize("num_tasks", [1, 4])
def test_intervals_hold_the_truth_as_often_as_is_said_which_is_less_than_95_of_100_with_few_seeds(num_tasks, num_seeds):
    said = COVERAGE[num_seeds][num_tasks == 4]
    assert covered(num_tasks, num_seeds) == pytest.approx(said, abs=0.05)


@pytest.mark.slow
def test_the_interval_of_an_improvement_that_is_none_holds_one_half():
    rng = np.random.default_rng(6)
    sample = lambda: [rng.normal(500, 100, 8) for _ in range(4)]
    studies = [probability_of_improvement(sample(), sample(), seed=s) for s in range(400)]
    share = np.mean([interval.low <= 0.5 <= interval.high for interval in studies])
    assert 0.88 <= share <= 0.97
