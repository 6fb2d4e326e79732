"""The native-physics seam: Playground's own task code on MuJoCo's C engine, inside jit, vmap, scan and shard_map.

Playground tasks touch physics through `mjx.make_data` and `mjx.forward` (in reset) and `mjx_env.step` or `mjx.step`.
These four names are replaced, once, by functions that check whether a native task is being traced in this thread: if so
they call `mujoco.batch`, otherwise the original. The task's observation, reward and reset code runs unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from mujoco import batch, mjx
from mujoco_playground._src import mjx_env

from dipod_jax.envs.simulator import DERIVED_FIELDS, Layout, Simulator, advance
from dipod_jax.runs.errors import TaskError

_task: ContextVar[NativeTask | None] = ContextVar("the native task that is traced", default=None)
# What a function that a task jits itself is traced for: part of jax's cache key, so that nothing else is given it.
_purpose = jax.make_user_context(None)
_install_lock = threading.Lock()


class NotCarriedError(AttributeError):
    """A task reads or sets something that the native engine does not provide."""


@jax.tree_util.register_pytree_node_class
class SlimData:
    """The part of `mjx.Data` that the tasks use: fields are read in the same way, and `replace` sets state fields."""

    __slots__ = ("derived", "layout", "state")

    def __init__(self, state: Any, derived: Any, layout: Layout):
        self.state, self.derived, self.layout = state, derived, layout

    def tree_flatten(self):
        return (self.state, self.derived), self.layout

    @classmethod
    def tree_unflatten(cls, layout, leaves):
        state, derived = leaves
        return cls(state, derived, layout)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self.layout.fields:
            raise NotCarriedError(f"it does not carry data.{name}; use --backend mjx")
        self.layout.read.add(name)
        row, where, shape = self.layout.fields[name]
        value = getattr(self, row)[..., where]
        return value.reshape(*value.shape[:-1], *shape)

    def replace(self, **values: Any) -> SlimData:
        """Return a copy with state fields set; derived fields follow at the next forward or step."""
        state = self.state
        for name, value in values.items():
            row, where, _ = self.layout.fields.get(name, (None, None, None))
            if row != "state":
                raise NotCarriedError(f"data.{name} cannot be set there; use --backend mjx")
            state = state.at[..., where].set(jnp.ravel(value))
        return SlimData(state, self.derived, self.layout)


class NativeTask:
    """A Playground task whose physics runs on MuJoCo's C engine. Same `reset(key)` and `step(state, action)`.

    Raises:
        TaskError: at construction, if the task reads a field of `mjx.Data` that the native engine does not provide.
    """

    def __init__(self, task: Any, num_threads: int = 1):
        if jax.default_backend() != "cpu":
            raise ValueError(
                "backend native steps MuJoCo on the CPU and needs JAX on the CPU too: use mjx or warp on an accelerator"
            )
        _install_dispatchers()
        self._task = task
        self.mj_model, self.dt = task.mj_model, task.dt
        self.action_size = int(task.action_size)
        available = tuple(n for n in DERIVED_FIELDS if n in batch.DATA_FIELDS)
        everything = Layout(task.mj_model, available)
        # a purpose of its own, so that whatever the task jits is traced here and what it reads is seen
        self._use(everything, num_threads, object())
        try:
            start = jax.eval_shape(self.reset, jax.random.key(0))
            jax.eval_shape(self.step, start, jax.ShapeDtypeStruct((self.action_size,), jnp.float32))
        except NotCarriedError as error:
            raise TaskError(f"task {type(task).__name__} cannot run on native physics: {error}") from error
        carried = Layout(task.mj_model, tuple(n for n in available if n in everything.read))
        self._use(carried, num_threads, carried)

    def _use(self, layout: Layout, num_threads: int, purpose: object) -> None:
        self._layout, self._purpose = layout, purpose
        self._simulator = Simulator(self.mj_model, layout, num_threads)

    def reset(self, key: jax.Array) -> Any:
        """Playground's reset of one environment."""
        with self._native_physics():
            return self._task.reset(key)

    def step(self, state: Any, action: jax.Array) -> Any:
        """Playground's step of one environment; derived fields are those before the last substep, as in MJX."""
        with self._native_physics():
            return self._task.step(state, action)

    def _make_data(self, model: Any, *_: Any, **__: Any) -> SlimData:
        del model
        return SlimData(jnp.asarray(self._layout.initial), jnp.zeros(self._layout.sizes["derived"]), self._layout)

    def _forward(self, model: Any, data: Any) -> SlimData:
        del model
        return self._advance(data, 0)

    def _step(self, model: Any, data: Any) -> SlimData:
        del model
        return self._advance(data, 1)

    def _control_step(self, model: Any, data: Any, action: jax.Array, n_substeps: int = 1) -> SlimData:
        del model
        return self._advance(data.replace(ctrl=action), n_substeps)

    def _advance(self, data: Any, num_substeps: int) -> SlimData:
        if not isinstance(data, SlimData) or data.layout != self._layout:
            raise NotCarriedError("its data comes from elsewhere than this task's own mjx.make_data; use --backend mjx")
        state, derived = advance(data.state, self._simulator, num_substeps)
        return SlimData(state, derived, self._layout)

    @contextlib.contextmanager
    def _native_physics(self) -> Iterator[None]:
        """While inside, code in this thread reaches native physics through Playground's own names."""
        token = _task.set(self)
        try:
            with _purpose(self._purpose):
                yield
        finally:
            _task.reset(token)


_SEAM = (
    (mjx, "make_data", NativeTask._make_data),
    (mjx, "forward", NativeTask._forward),
    (mjx, "step", NativeTask._step),
    (mjx_env, "step", NativeTask._control_step),
)


def _install_dispatchers() -> None:
    """Install the dispatchers, once per process; without a native task they only call the original."""
    with _install_lock:
        for module, name, native in _SEAM:
            original = getattr(module, name)
            if not hasattr(original, "passes_to_native"):
                setattr(module, name, _dispatcher(original, native))


def _dispatcher(original: Any, native: Any) -> Any:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        task = _task.get()
        return original(*args, **kwargs) if task is None else native(task, *args, **kwargs)

    call.passes_to_native = True
    return call
