"""Running statistics hold what numpy computes over all data at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.training.statistics import RunningStatistics

BATCHES = [np.random.default_rng(i).normal(3.0, 2.0, (20 + 30 * i, 50, 4)).astype(np.float32) for i in range(8)]
EVERYTHING = np.concatenate([b.reshape(-1, 4) for b in BATCHES]).astype(np.float64)


def merged(batches):
    statistics = RunningStatistics.zeros(batches[0].shape[-1])
    update = jax.jit(RunningStatistics.update)
    for batch in batches:
        statistics = update(statistics, batch)
    return statistics


def test_many_batches_of_a_normal_give_its_deviation():
    """The released FPO code's deviation shrinks as 1/sqrt(updates): 2 / sqrt(8) = .7 here."""
    statistics = merged(BATCHES)
    assert_allclose(statistics.std, 2.0, rtol=0.02)  # 50,000 samples: standard error .3 %
    assert_allclose(statistics.mean, 3.0, atol=0.05)


def test_merging_batches_of_different_sizes_equals_numpy_over_all_data():
    statistics = merged(BATCHES)
    assert statistics.count == len(EVERYTHING)
    assert_allclose(statistics.mean, EVERYTHING.mean(0), rtol=1e-5)
    assert_allclose(statistics.std, EVERYTHING.std(0), rtol=1e-5)


def test_order_of_batches_does_not_matter():
    for ours, other in zip(*map(jax.tree.leaves, (merged(BATCHES), merged(BATCHES[::-1]))), strict=True):
        assert_allclose(ours, other, rtol=1e-5)


def test_a_large_mean_does_not_cancel_the_variance():
    data = (1000.0 + 0.1 * np.random.default_rng(0).standard_normal((4, 4096, 4))).astype(np.float32)
    assert_allclose(merged(data).std, data.astype(np.float64).std((0, 1)), rtol=2e-3)


def test_two_shards_hold_the_same_statistics_as_one_device():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    assert mesh.size == 2
    update = jax.jit(RunningStatistics.update)
    sharded = RunningStatistics.zeros(4)
    for batch in BATCHES[:2]:
        sharded = update(sharded, jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))))
    for ours, one_device in zip(*map(jax.tree.leaves, (sharded, merged(BATCHES[:2]))), strict=True):
        assert_allclose(ours, one_device, rtol=1e-5)


@pytest.mark.parametrize("value", [1e4, -1e9])
@pytest.mark.parametrize("batches", [1, 4])
def test_one_huge_observation_moves_the_deviation_by_less_than_a_hundred_units_would(value, batches):
    batch = BATCHES[0].copy()  # 1000 rows
    batch[3, 7, 2] = value
    ours, sound = merged([*BATCHES[1:batches], batch]), merged([*BATCHES[1:batches], BATCHES[0]])
    assert_array_equal(np.delete(ours.std, 2), np.delete(sound.std, 2))
    assert np.abs(ours.mean - sound.mean).max() < 100 / 1000 * 1.1
    # 100^2 / 1000 is 10, on a variance of 4
    assert 2.0 < ours.std[2] < 4.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e30, 3e38])
def test_an_observation_that_is_no_measurement_is_left_out(value):
    batch = BATCHES[0].copy()
    batch[3, 7, 2] = value
    statistics = merged([batch, BATCHES[1]])
    rows = np.concatenate([np.delete(BATCHES[0].reshape(-1, 4), 3 * 50 + 7, 0), BATCHES[1].reshape(-1, 4)])
    assert statistics.count == len(rows)
    assert_allclose(statistics.mean, rows.mean(0), rtol=1e-5)
    assert_allclose(statistics.std, rows.std(0), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_a_batch_of_nothing_but_what_is_no_measurement_changes_nothing(value):
    nothing = np.full((20, 50, 4), value, np.float32)
    jax.tree.map(assert_array_equal, merged([nothing]), RunningStatistics.zeros(4))
    jax.tree.map(assert_array_equal, merged([BATCHES[0], nothing]), merged([BATCHES[0]]))


def test_features_of_any_unit_and_rare_ones_count_whole():
    rng = np.random.default_rng(0)
    units = np.float32([1.0, 1e6, 1.0]) * rng.standard_normal((100, 50, 3)).astype(np.float32)
    units[..., 2] = np.where(rng.random((100, 50)) < 0.002, 80.0, 0.0)  # a sensor that is silent but for ten steps
    units[..., 1] += 1e7
    statistics = merged([units])
    assert_allclose(statistics.std, units.astype(np.float64).std((0, 1)), rtol=1e-3)
    assert_allclose(statistics.mean, units.astype(np.float64).mean((0, 1)), rtol=1e-3)


def test_normalised_observations_are_clipped_where_that_is_asked_for():
    rows = jnp.array([[0.0], [2.0]])  # mean and deviation 1
    free, clipped = (RunningStatistics.zeros(1, clip=clip).update(rows) for clip in (None, 10.0))
    obs = jnp.array([[12.0], [10.5], [-1e9]])
    assert_array_equal(free.normalise(obs), obs - 1.0)
    assert_array_equal(clipped.normalise(obs), [[10.0], [9.5], [-10.0]])


def test_nothing_seen_changes_nothing_and_what_never_varies_does_not_explode():
    obs = jnp.arange(4.0)
    assert_array_equal(RunningStatistics.zeros(4).normalise(obs), obs)
    constant = RunningStatistics.zeros(4).update(jnp.broadcast_to(obs, (10, 4)))
    assert_array_equal(constant.normalise(obs), 0.0)
    assert jnp.isfinite(constant.normalise(obs + 1.0)).all()


def test_normalised_data_have_mean_zero_and_deviation_one():
    normalised = np.asarray(merged(BATCHES).normalise(jnp.asarray(EVERYTHING, jnp.float32)), np.float64)
    assert_allclose(normalised.mean(0), 0.0, atol=1e-4)
    assert_allclose(normalised.std(0), 1.0, atol=1e-4)
