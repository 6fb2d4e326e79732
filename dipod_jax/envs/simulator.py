"""MuJoCo's batch engine as one JAX primitive: rows of float32 in, rows of float32 out, no state in between."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from mujoco import batch

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


class Layout:
    """Where each field stands in the two float32 rows that carry a simulation: `state` and `derived`.

    Two layouts are equal if model and fields are, so that a state can move between environments of a task.
    """

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
        self._value = derived, _digest(model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


def _digest(model: mujoco.MjModel) -> bytes:
    saved = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, saved)
    return hashlib.sha256(saved.tobytes()).digest()


class _Lane:
    """A `Batch`, with the places that a call writes and reads looked up once."""

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

    Each call takes a `Batch` of the right size from a list and puts it back, so that concurrent calls (one per device
    shard) never share one. A call writes all the state it reads, so any of them will do.
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
        try:
            yield lane
        finally:
            with self._lock:
                idle.append(lane)

    def advance(self, rows: np.ndarray, num_substeps: int) -> tuple[np.ndarray, np.ndarray]:
        """Step (or, for 0 substeps, forward) simulations.

        Args:
            rows: (..., S) float32 state rows.
            num_substeps: calls of mj_step, >= 0.

        Returns:
            State rows (..., S), all NaN if MuJoCo reported a failed simulation, and derived rows (..., D).
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


def advance(state: jax.Array, simulator: Simulator, num_substeps: int) -> tuple[jax.Array, jax.Array]:
    """`Simulator.advance` of traced or concrete rows (..., S), under any of jit, scan, map, vmap and shard_map."""
    return tuple(_advance_p.bind(state, simulator=_WeakReference(simulator), num_substeps=num_substeps))


class _WeakReference(weakref.ref):
    __slots__ = ("__weakref__",)  # jax's caches hold their keys weakly in turn


# A primitive of our own rather than `jax.pure_callback`: that one copies its arguments to a device on the very threads
# which wait for the result, and two device shards stepping large batches then wait for each other forever.
# Its parameter is a weak reference, because jax's caches keep the parameters of what was traced; a compiled program
# holds the simulator itself, and goes when the function does that was compiled.
_advance_p = Primitive("native_advance")
_advance_p.multiple_results = True


@_advance_p.def_abstract_eval
def _advance_shape(rows, *, simulator: _WeakReference, num_substeps: int):
    return rows, rows.update(shape=(*rows.shape[:-1], _alive(simulator).layout.sizes["derived"]))


def _advance_lowering(ctx, rows, *, simulator: _WeakReference, num_substeps: int):
    held = _alive(simulator)
    call = lambda values: held.advance(np.asarray(values), num_substeps)
    results, _, _ = mlir.emit_python_callback(
        ctx, call, None, [rows], ctx.avals_in, ctx.avals_out, has_side_effect=False
    )
    return results


def _advance_batching(args, dims, **params):
    rows = jnp.moveaxis(args[0], dims[0], 0)
    return _advance_p.bind(rows, **params), (0, 0)


def _advance_now(rows, *, simulator: _WeakReference, num_substeps: int):
    """Outside jit."""
    return [jax.device_put(x, rows.sharding) for x in _alive(simulator).advance(np.asarray(rows), num_substeps)]


def _alive(simulator: _WeakReference) -> Simulator:
    if (held := simulator()) is None:
        raise ValueError("the environment that this was traced from is gone: keep it until the function is compiled")
    return held


_advance_p.def_impl(_advance_now)
mlir.register_lowering(_advance_p, _advance_lowering, platform="cpu")
batching.primitive_batchers[_advance_p] = _advance_batching
