"""What the benchmarks share in front of JAX: set-up as in training, raw MuJoCo to compare with, sharded programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco.rollout
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dipod_jax import envs
from dipod_jax.presets import make_config
from dipod_jax.training.setup import available_cores, prepare_jax

DATA = "data"
RAW = "raw mujoco.rollout"


def set_up() -> str:
    """Prepare JAX exactly as a run does; return the backend that `auto` chooses here."""
    config, _ = make_config("auto", "BallInCup", "fpo")
    prepare_jax(config)
    return config.backend


def data_mesh(num_devices: int | None = None) -> Mesh:
    """The first devices, all of them by default, along one axis."""
    devices = np.array(jax.devices()[:num_devices])
    return Mesh(devices, (DATA,), axis_types=(AxisType.Auto,))


def sharded(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """Jit `function` as one program per device, as `Trainer` does."""
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


def place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Put arrays on a mesh's devices."""
    return jax.device_put(tree, NamedSharding(mesh, spec))


def blocking(function: Callable, *args: Any) -> Callable[[], Any]:
    """A call without arguments that returns when the devices are done."""
    return lambda: jax.block_until_ready(function(*args))


def warmed_up_state(env: envs.BatchedEnv, mesh: Mesh, num_envs: int, num_steps: int = 32) -> Any:
    """States of B environments, sharded, after some random steps: contacts have formed, as they have in training."""
    local = num_envs // mesh.size

    def start(key: jax.Array) -> Any:
        reset_key, key = jax.random.split(jax.random.fold_in(key, jax.lax.axis_index(DATA)))
        step = lambda state, k: (env.step(state, random_actions(k, local, env.action_size))[0], None)
        return jax.lax.scan(step, env.reset(reset_key, local), jax.random.split(key, num_steps))[0]

    return sharded(start, mesh, PartitionSpec(), PartitionSpec(DATA))(jax.random.key(0))


def random_actions(key: jax.Array, *shape: int) -> jax.Array:
    """Uniform on [-1, 1]."""
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


class RawRollout:
    """`mujoco.rollout` from given states under given controls: one call over the whole horizon, outputs preallocated.

    Its best use: no Python between control steps, and a simulation stays in a core's cache for all of them.
    """

    def __init__(
        self, model: mujoco.MjModel, data: Any, actions: np.ndarray, num_substeps: int, num_threads: int | None = None
    ):
        """`data` has batched fields (B, ...) of `mjData`; `actions` are (T, B, nu)."""
        threads = num_threads or available_cores()
        horizon, num_envs, _ = actions.shape
        self.work = horizon * num_envs
        self.model = model
        self._scratch = [mujoco.MjData(model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._initial = self._initial_states(data, num_envs)
        self._warmstart = np.asarray(getattr(data, "qacc_warmstart", np.zeros((num_envs, model.nv))), np.float64)
        control = np.repeat(np.moveaxis(np.asarray(actions, np.float64), 0, 1), num_substeps, axis=1)
        self._control = np.ascontiguousarray(control)  # (B, T * substeps, nu)
        steps = horizon * num_substeps
        self.state = np.empty((num_envs, steps, self._initial.shape[1]))
        self._sensordata = np.empty((num_envs, steps, model.nsensordata))

    def _initial_states(self, data: Any, num_envs: int) -> np.ndarray:
        spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
        scratch, states = self._scratch[0], np.empty((num_envs, mujoco.mj_stateSize(self.model, spec)))
        time, qpos, qvel, act = (np.asarray(getattr(data, n)) for n in ("time", "qpos", "qvel", "act"))
        for i in range(num_envs):
            scratch.time, scratch.qpos[:], scratch.qvel[:] = float(time[i].squeeze()), qpos[i], qvel[i]
            if self.model.na:
                scratch.act[:] = act[i]
            mujoco.mj_getState(self.model, scratch, states[i], spec)
        return states

    def __call__(self) -> None:
        self._pool.rollout(
            self.model,
            self._scratch,
            self._initial,
            self._control,
            initial_warmstart=self._warmstart,
            state=self.state,
            sensordata=self._sensordata,
        )

    @property
    def last_qpos(self) -> np.ndarray:
        """(B, nq) after the last step."""
        return self.state[:, -1, 1 : 1 + self.model.nq]

    @property
    def variant(self) -> tuple[Callable[[], None], float]:
        """As `interleave` takes it: the call, and the env steps it does."""
        return self, self.work


def raw_rollout(env: envs.BatchedEnv, data: Any, num_steps: int, num_substeps: int | None = None) -> RawRollout:
    """Raw MuJoCo from the states that an environment is in, under random controls."""
    num_envs = np.asarray(data.qpos).shape[0]
    actions = np.asarray(random_actions(jax.random.key(7), num_steps, num_envs, env.action_size))
    return RawRollout(env.mj_model, data, actions, num_substeps or substeps(env))


def substeps(env: envs.BatchedEnv) -> int:
    """Physics steps of one control step."""
    return round(env.dt / env.mj_model.opt.timestep)


def horizon(num_envs: int, total: int, least: int = 8) -> int:
    """T, so that about `total` transitions are made by B environments."""
    return max(least, total // num_envs)


def over_devices(mesh: Mesh, names: Sequence[str]) -> Callable:
    """`sharded` with every argument and result split along the named axis."""
    return partial(sharded, mesh=mesh, in_specs=PartitionSpec(*names), out_specs=PartitionSpec(*names))
