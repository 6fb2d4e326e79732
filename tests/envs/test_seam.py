"""Native physics takes the place of MJX in the thread that traces a native task, nowhere else, and nothing is left."""

import gc
import threading
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from mujoco import mjx
from mujoco_playground._src import mjx_env
from numpy.testing import assert_allclose, assert_array_equal
from own_task import Cart

from dipod_jax.envs import BatchedEnv
from dipod_jax.envs.native import NativeTask, SlimData

KEY = jax.random.key(0)


class Waiting(Cart):
    """Stops in the middle of its reset, where native physics stands in the place of MJX, until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.armed, self.inside, self.go_on = False, threading.Event(), threading.Event()

    def _observe(self, data):
        if self.armed:
            self.inside.set()
            assert self.go_on.wait(60)
        return super()._observe(data)


def test_while_one_thread_traces_a_native_task_another_gets_mjx():
    task = Waiting()
    native, data = NativeTask(task), {}
    task.armed = True
    trace = lambda: data.update(native=jax.eval_shape(native.reset, KEY).data)
    thread = threading.Thread(target=trace)
    thread.start()
    assert task.inside.wait(60)
    try:
        data["mjx"] = jax.eval_shape(Cart().reset, KEY).data
        data["other native"] = jax.eval_shape(NativeTask(Cart()).reset, KEY).data
        data["mjx again"] = jax.eval_shape(Cart().reset, KEY).data
    finally:
        task.go_on.set()
        thread.join()
    kinds = {name: type(value) for name, value in data.items()}
    assert kinds == {"native": SlimData, "mjx": mjx.Data, "other native": SlimData, "mjx again": mjx.Data}


def test_many_threads_trace_both_kinds_and_none_is_given_the_other():
    tasks = [Cart() if i % 2 else NativeTask(Cart()) for i in range(6)]
    start, kinds = threading.Barrier(len(tasks)), {}

    def trace(i):
        start.wait()
        state = jax.eval_shape(tasks[i].reset, KEY)
        kinds[i] = type(state.data), type(jax.eval_shape(tasks[i].step, state, jnp.zeros(1)).data)

    threads = [threading.Thread(target=trace, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == {i: (mjx.Data, mjx.Data) if i % 2 else (SlimData, SlimData) for i in range(len(tasks))}


def test_an_error_in_a_task_leaves_no_native_physics_behind():
    class Failing(Cart):
        def _observe(self, data):
            raise RuntimeError("the task's own error")

    with pytest.raises(RuntimeError, match="own error"):
        NativeTask(Failing())
    assert isinstance(jax.eval_shape(Cart().reset, KEY).data, mjx.Data)


def test_functions_that_a_task_jits_itself_are_traced_anew_for_each_physics():
    @partial(jax.jit, static_argnums=0)
    def start_of(model, position):
        return mjx_env.make_data(model.value, qpos=position, impl="jax")

    class Model:  # hashable, one for all
        value = Cart().mj_model

    class Jitted(Cart):
        def reset(self, rng):
            data = mjx.forward(self.mjx_model, start_of(Model, jnp.full(1, 0.5)))
            return mjx_env.State(data, self._observe(data), jnp.zeros(()), jnp.zeros(()), {}, {})

    for _ in range(2):
        assert isinstance(jax.eval_shape(Jitted().reset, KEY).data, mjx.Data)
        task = NativeTask(Jitted())
        state = task.step(task.reset(KEY), jnp.ones(1))
        assert isinstance(state.data, SlimData)
        # from rest under a force of 10 on a mass of 1: about 10 x .02 s
        assert_allclose(state.obs, [0.503, 0.2], atol=0.01)


class Heavier(Cart):
    def __init__(self):
        super().__init__()
        self.mj_model.body_mass[:] *= 2


def test_data_of_the_same_model_may_come_from_another_environment_and_of_another_model_not():
    one, other, heavier = NativeTask(Cart()), NativeTask(Cart()), NativeTask(Heavier())
    state, push = one.reset(KEY), jnp.ones(1)
    assert_array_equal(other.step(state, push).obs, one.step(state, push).obs)
    with pytest.raises(AttributeError, match=r"elsewhere than this task's own mjx\.make_data"):
        heavier.step(state, push)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_hundred_environments_that_were_dropped_are_gone(compiled):
    task, alive = Cart(), weakref.WeakSet()
    for _ in range(2 if compiled else 100):
        env = BatchedEnv(NativeTask(task), 5)
        alive.add(env._task._simulator)
        alive.add(env)
        step = jax.jit(env.step) if compiled else env.step
        state, _ = step(env.reset(KEY, 2), jnp.zeros((2, 1)))
        del env, step, state
    gc.collect()
    assert len(alive) == 0
