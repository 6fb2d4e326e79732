"""The simulator holds no state between calls: what a call returns is a function of the rows it is given, row by row."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dipod_jax.envs.native import NativeTask
from dipod_jax.envs.playground import load_task
from dipod_jax.envs.simulator import advance

ENVS, SUBSTEPS = 8, 4


@pytest.fixture(scope="module")
def task():
    return NativeTask(load_task("BallInCup", "jax"))


@pytest.fixture(scope="module")
def simulator(task):
    return task._simulator


@pytest.fixture(scope="module")
def rows(simulator):
    """(2, B, S): balls that have fallen into the cup for a while, with other controls in the second batch."""
    fields, rng = simulator.layout.fields, np.random.default_rng(0)
    rows = np.tile(simulator.layout.initial, (2 * ENVS, 1))
    rows[:, fields["qpos"][1]] += np.linspace([0, 0, -0.05, 0.25], [0, 0, 0.05, 0.6], 2 * ENVS)
    rows[:, fields["ctrl"][1]] = rng.uniform(-1, 1, (2 * ENVS, 2))
    return simulator.advance(rows, 100)[0].reshape(2, ENVS, -1)


def test_stepping_a_then_b_then_a_again_gives_a_the_same_bits(simulator, rows):
    """What a call leaves in the engine, such as where its one solver iteration starts, must not reach the next."""
    a, b = rows
    first = simulator.advance(a, SUBSTEPS)
    other = simulator.advance(b, SUBSTEPS)
    again = simulator.advance(a, SUBSTEPS)
    for left, right in zip(first, again, strict=True):
        assert_array_equal(left, right)
    assert not np.array_equal(first[0], other[0])


def test_forward_leaves_no_trace_in_the_next_call_either(simulator, rows):
    a, b = rows
    first = simulator.advance(a, SUBSTEPS)
    simulator.advance(b, 0)
    assert_array_equal(simulator.advance(a, SUBSTEPS)[0], first[0])


@pytest.mark.parametrize("order", [np.arange(ENVS)[::-1], np.roll(np.arange(ENVS), 3)])
def test_rows_in_another_order_give_the_same_rows_in_that_order(simulator, rows, order):
    for got, want in zip(
        simulator.advance(rows[0][order], SUBSTEPS), simulator.advance(rows[0], SUBSTEPS), strict=True
    ):
        assert_array_equal(got, want[order])


def test_a_row_alone_is_as_it_is_among_others_and_others_do_not_feel_it_fail(simulator, rows):
    state, derived = simulator.advance(rows[0], SUBSTEPS)
    broken = rows[0].copy()
    broken[3] = np.nan
    after, after_derived = simulator.advance(broken, SUBSTEPS)
    others = np.arange(ENVS) != 3
    assert_array_equal(after[others], state[others])
    assert_array_equal(after_derived[others], derived[others])
    assert np.isnan(after[3]).all() and np.isnan(after_derived[3]).all()
    for i in range(ENVS):
        assert_array_equal(simulator.advance(rows[0][i : i + 1], SUBSTEPS)[0][0], state[i])


def test_called_and_compiled_mapped_and_vmapped_it_gives_the_same_bits(simulator, rows):
    run = lambda x: advance(x, simulator, SUBSTEPS)
    want = simulator.advance(rows, SUBSTEPS)
    ways = (run, jax.jit(run), jax.jit(jax.vmap(run)), jax.jit(jax.vmap(run, 1, 1)), lambda x: jax.lax.map(run, x))
    for way in ways:
        for got, wanted in zip(way(jnp.asarray(rows)), want, strict=True):
            assert_array_equal(got, wanted)


def test_a_call_that_raises_gives_its_lane_back(task, rows):
    simulator = NativeTask(task._task)._simulator
    simulator.advance(rows[0], 1)
    (lane,) = simulator._idle[ENVS]
    want = simulator.advance(rows[0], SUBSTEPS)
    for _ in range(3):
        with pytest.raises(TypeError):
            simulator.advance(rows[0], "two")
        assert simulator._idle[ENVS] == [lane]
    assert_array_equal(simulator.advance(rows[0], SUBSTEPS)[0], want[0])


def test_concurrent_calls_never_share_a_lane_and_do_not_change_each_other(simulator, rows):
    want = [simulator.advance(rows[i], SUBSTEPS)[0] for i in range(2)]
    wrong = []

    def work(i):
        for _ in range(50):
            if not np.array_equal(simulator.advance(rows[i % 2], SUBSTEPS)[0], want[i % 2]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and 1 <= len(simulator._idle[ENVS]) <= 4
