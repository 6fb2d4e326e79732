"""The native-physics seam: Playground's own task code on MuJoCo's C engine, inside jit, vmap, scan and shard_map.

Playground tasks touch physics through three functions only: `mjx_env.make_data`, `mjx.forward` (in reset) and
`mjx_env.step`. While a task's `reset` or `step` is traced, these are replaced by calls into `mujoco.batch.Batch`; the
task's observation, reward and reset code runs unchanged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from mujoco import batch, mjx
from mujoco_playground._src import mjx_env

# What travels from step to step. `qacc_warmstart` must: the suite's tasks cap the solver at one or two iterations, so
# where it starts is part of the state.
STATE_FIELDS = ("time", "qpos", "qvel", "act", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat")
# What a task may read. Which of these are carried is found out by tracing the task once.
DERIVED_FIELDS = (
    *(
        "xpos",
        "xquat",
        "xmat",
        "xipos",
        "ximat",
        "xanchor",
        "xaxis",
        "geom_xpos",
        "geom_xmat",
        "site_xpos",
        "site_xmat",
    ),
    *("subtree_com", "cvel", "cinert", "sensordata", "actuator_force", "actuator_length", "actuator_velocity", "qacc"),
    *("qfrc_actuator", "qfrc_bias", "qfrc_passive", "ten_length", "ten_velocity", "subtree_linvel", "subtree_angmom"),
)
# MuJoCo sets bad controls to 0 and carries on; the task never asked for that.
_FAILURES = tuple(int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{what}")) for what in ("QPOS", "QVEL", "QACC", "CTRL"))
_MATRICES = ("xmat", "ximat", "geom_xmat", "site_xmat")  # (n, 9) in MuJoCo, (n, 3, 3) in MJX

# Tracing replaces functions of two modules; one trace at a time.
_TRACE_LOCK = threading.RLock()


class NotCarriedError(AttributeError):
    """A task reads or sets what the native engine does not offer it."""


class Layout:
    """Where each field stands in the two float32 rows that carry a simulation: `state` and `derived`."""

    def __init__(self, model: mujoco.MjModel, derived: tuple[str, ...]):
        template = mujoco.MjData(model)
        self.read: set[str] = set()
        self.fields: dict[str, tuple[str, slice, tuple[int, ...]]] = {}
        self.sizes = {"state": 0, "derived": 0}
        for row, names in (("state", STATE_FIELDS), ("derived", derived)):
            for name in names:
                value = np.asarray(getattr(template, name))
                shape = (value.shape[0], 3, 3) if name in _MATRICES else value.shape
                start = self.sizes[row]
                self.sizes[row] = start + int(value.size)
                self.fields[name] = (row, slice(start, self.sizes[row]), shape)
        self.initial = np.concatenate([np.ravel(getattr(template, n)) for n in STATE_FIELDS]).astype(np.float32)


@jax.tree_util.register_pytree_node_class
class SlimData:
    """The part of `mjx.Data` that the tasks use: reads like it, and `replace` sets state fields."""

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
        """Return a copy with state fields set; a derived field follows only at the next forward or step."""
        state = self.state
        for name, value in values.items():
            row, where, _ = self.layout.fields.get(name, (None, None, None))
            if row != "state":
                raise NotCarriedError(f"data.{name} cannot be set there; use --backend mjx")
            state = state.at[..., where].set(jnp.ravel(value))
        return SlimData(state, self.derived, self.layout)


class _Lane:
    """A `Batch`, with where a call writes and reads in it looked up once."""

    def __init__(self, model: mujoco.MjModel, layout: Layout, size: int, num_threads: int):
        self.sims = batch.Batch(model, size, num_threads)
        self.columns = np.concatenate([self._columns(name) for name in STATE_FIELDS])  # of sims.state, in row order
        self.derived = [
            (where, self.sims.bind(name)) for name, (row, where, _) in layout.fields.items() if row == "derived"
        ]

    def _columns(self, field: str) -> np.ndarray:
        """Columns of `sims.state` that the live view of a state field covers."""
        state, view = self.sims.state, self.sims.bind(field)
        if view.size == 0:
            return np.zeros(0, np.intp)
        start = (view.ctypes.data - state.ctypes.data) // state.itemsize
        return np.arange(start, start + view[0].size)


class Simulator:
    """Steps rows of simulations on MuJoCo's thread pool; holds no state between calls.

    Each call checks a `Batch` of the right size out of a list and puts it back, so that concurrent calls (one a device
    shard) never share one. A call writes all state it reads, so it does not matter which it gets.
    """

    def __init__(self, model: mujoco.MjModel, layout: Layout, num_threads: int):
        self.model, self.layout, self.num_threads = model, layout, num_threads
        self._idle: dict[int, list[_Lane]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _lane(self, size: int) -> Iterator[_Lane]:
        with self._lock:
            idle = self._idle.setdefault(size, [])
            lane = idle.pop() if idle else None
        if lane is None:
            lane = _Lane(self.model, self.layout, size, self.num_threads)
        yield lane
        with self._lock:
            idle.append(lane)

    def advance(self, rows: np.ndarray, num_substeps: int) -> tuple[np.ndarray, np.ndarray]:
        """Step (or, for 0 substeps, forward) simulations.

        Args:
            rows: (..., S) float32 state rows.
            num_substeps: calls of mj_step, >= 0.

        Returns:
            State rows (..., S), all NaN where MuJoCo reported a failed simulation, and derived rows (..., D).
        """
        flat = rows.reshape(-1, rows.shape[-1])
        derived = np.empty((len(flat), self.layout.sizes["derived"]), np.float32)
        with self._lane(len(flat)) as lane:
            sims = lane.sims
            sims.state[:, lane.columns] = flat
            # mj_step zeroes the counters of a simulation that it resets: only a count from 0 shows every failure.
            sims.warning[...] = 0
            failed = np.zeros(len(flat), bool)
            try:
                if num_substeps:
                    sims.step(nstep=num_substeps)
                else:
                    sims.forward()
            except batch.SimulationError as error:
                failed[error.ids] = True
            failed |= sims.warning[:, _FAILURES, 1].any(-1)
            state = sims.state[:, lane.columns].astype(np.float32)
            for where, value in lane.derived:
                derived[:, where] = value.reshape(len(flat), -1)
        if failed.any():
            # mj_step resets a simulation that went bad and carries on; what it computed after is not the task's state.
            state[failed] = np.nan
            derived[failed] = np.nan
        return state.reshape(rows.shape), derived.reshape(*rows.shape[:-1], -1)


# A primitive of our own rather than `jax.pure_callback`: that one copies its arguments to a device on the very threads
# which wait for the result, and two device shards stepping large batches then wait for each other forever.
_advance_p = Primitive("native_advance")
_advance_p.multiple_results = True


@_advance_p.def_abstract_eval
def _advance_shape(rows, *, simulator: Simulator, num_substeps: int):
    return rows, rows.update(shape=(*rows.shape[:-1], simulator.layout.sizes["derived"]))


def _advance_lowering(ctx, rows, *, simulator: Simulator, num_substeps: int):
    call = lambda values: simulator.advance(np.asarray(values), num_substeps)
    results, _, _ = mlir.emit_python_callback(
        ctx, call, None, [rows], ctx.avals_in, ctx.avals_out, has_side_effect=False
    )
    return results


def _advance_batching(args, dims, **params):
    rows = jnp.moveaxis(args[0], dims[0], 0)
    return _advance_p.bind(rows, **params), (0, 0)


_advance_p.def_impl(jax.jit(_advance_p.bind, static_argnames=("simulator", "num_substeps")))
mlir.register_lowering(_advance_p, _advance_lowering, platform="cpu")
batching.primitive_batchers[_advance_p] = _advance_batching


class NativeTask:
    """A Playground task whose physics runs on MuJoCo's C engine. Same `reset(key)` and `step(state, action)`.

    Raises:
        ValueError: at construction, where the task reads a field of `mjx.Data` that the native engine does not offer.
    """

    def __init__(self, task: Any, num_threads: int = 1):
        if jax.default_backend() != "cpu":
            raise ValueError(
                "backend native steps MuJoCo on the CPU and needs JAX on the CPU too: use mjx or warp on an accelerator"
            )
        self._task = task
        self.mj_model, self.dt = task.mj_model, task.dt
        self.action_size = int(task.action_size)
        available = tuple(n for n in DERIVED_FIELDS if n in batch.DATA_FIELDS)
        everything = Layout(task.mj_model, available)
        self._use(everything, num_threads)
        try:
            start = jax.eval_shape(self.reset, jax.random.key(0))
            jax.eval_shape(self.step, start, jax.ShapeDtypeStruct((self.action_size,), jnp.float32))
        except NotCarriedError as error:
            raise ValueError(f"task {type(task).__name__} cannot run on native physics: {error}") from error
        self._use(Layout(task.mj_model, tuple(n for n in available if n in everything.read)), num_threads)

    def _use(self, layout: Layout, num_threads: int) -> None:
        self._layout = layout
        self._simulator = Simulator(self.mj_model, layout, num_threads)

    def reset(self, key: jax.Array) -> Any:
        """Playground's reset of one environment."""
        with self._native_physics():
            return self._task.reset(key)

    def step(self, state: Any, action: jax.Array) -> Any:
        """Playground's step of one environment; derived fields are those before the last substep, as in MJX."""
        with self._native_physics():
            return self._task.step(state, action)

    def _make_data(self, model: Any, *_: Any, **values: Any) -> SlimData:
        del model
        state = {n: v for n, v in values.items() if n in STATE_FIELDS and v is not None}
        data = SlimData(jnp.asarray(self._layout.initial), jnp.zeros(self._layout.sizes["derived"]), self._layout)
        return data.replace(**state)

    def _advance(self, data: SlimData, num_substeps: int) -> SlimData:
        state, derived = _advance_p.bind(data.state, simulator=self._simulator, num_substeps=num_substeps)
        return SlimData(state, derived, self._layout)

    def _step_data(self, model: Any, data: Any, action: jax.Array, n_substeps: int = 1) -> Any:
        del model
        return self._advance(data.replace(ctrl=action), n_substeps)

    def _forward_data(self, model: Any, data: Any) -> Any:
        del model
        return self._advance(data, 0)

    @contextlib.contextmanager
    def _native_physics(self) -> Iterator[None]:
        """Let the code traced inside reach native physics through Playground's own names."""
        with _TRACE_LOCK:
            saved = mjx_env.make_data, mjx_env.step, mjx.forward
            mjx_env.make_data = self._make_data
            mjx_env.step = self._step_data
            mjx.forward = self._forward_data
            try:
                yield
            finally:
                mjx_env.make_data, mjx_env.step, mjx.forward = saved
