"""What the benchmarks share in front of JAX: set-up as in training, and raw MuJoCo to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import mujoco.rollout
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks._timing import Variant
from dipod_jax.config import Backend, Preset
from dipod_jax.envs import BatchedEnv, EnvState
from dipod_jax.machine import available_cores
from dipod_jax.options import override
from dipod_jax.presets import make_config
from dipod_jax.training.programs import Programs, make_programs
from dipod_jax.training.setup import prepare_jax

DATA = "data"
RAW = "raw mujoco.rollout"


def set_up() -> Backend:
    """Prepare JAX exactly as a run does; return the backend that `auto` chooses here."""
    config, _ = make_config("auto", "BallInCup", "fpo")
    prepare_jax(config)
    return config.backend


def programs_of(
    preset: Preset,
    task: str,
    backend: Backend,
    changes: Mapping[str, Any] | None = None,
    *,
    objective: str = "fpo",
    num_seeds: int = 1,
) -> Programs:
    """What a run of seeds 0 .. `num_seeds` - 1 calls; `changes` are options of the preset's config by dotted name."""
    config, _ = make_config(preset, task, objective, backend)
    return make_programs(override(config, changes or {}), tuple(range(num_seeds)))


def data_mesh(rows: int) -> Mesh:
    """As many devices as share that many rows evenly, along one axis."""
    devices = jax.devices()
    shards = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    return Mesh(np.array(devices[:shards]), (DATA,), axis_types=(AxisType.Auto,))


def place(tree: Any, mesh: Mesh, *axes: str | None) -> Any:
    """Put arrays on a mesh's devices; `axes` says how their leading axes lie."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def blocking(function: Callable, *args: Any) -> Callable[[], Any]:
    """A call without arguments that returns when the devices are done."""
    return lambda: jax.block_until_ready(function(*args))


def random_actions(key: jax.Array, *shape: int) -> jax.Array:
    """Uniform on [-1, 1]."""
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


def warmed_up_state(env: BatchedEnv, num_envs: int, num_steps: int = 32) -> EnvState:
    """States of B environments after some random steps: contacts have formed, as they have in training."""

    def start(key: jax.Array) -> EnvState:
        keys = jax.random.split(key, num_steps + 1)
        step = lambda state, k: (env.step(state, random_actions(k, num_envs, env.action_size))[0], None)
        return jax.lax.scan(step, env.reset(keys[0], num_envs), keys[1:])[0]

    return jax.block_until_ready(jax.jit(start)(jax.random.key(0)))


def substeps(env: BatchedEnv) -> int:
    """Physics steps of one control step."""
    return round(env.dt / env.mj_model.opt.timestep)


class RawRollout:
    """`mujoco.rollout` from given states under given controls, on all cores: one call over the whole horizon.

    Its best use: no Python between control steps, outputs allocated beforehand, and a simulation stays in a core's
    cache for all of its steps.
    """

    def __init__(self, env: BatchedEnv, data: Any, actions: jax.Array):
        """`data` has batched fields (B, ...) of `mjData`; `actions` are (T, B, nu), one a control step."""
        self.model, threads, num_envs = env.mj_model, available_cores(), actions.shape[1]
        self._scratch = [mujoco.MjData(self.model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._initial = self._initial_states(data, num_envs)
        self._warmstart = np.asarray(getattr(data, "qacc_warmstart", np.zeros((num_envs, self.model.nv))), np.float64)
        control = np.repeat(np.moveaxis(np.asarray(actions, np.float64), 0, 1), substeps(env), axis=1)
        self._control = np.ascontiguousarray(control)  # (B, T * substeps, nu)
        self._state = np.empty((*control.shape[:2], self._initial.shape[1]))
        self._sensordata = np.empty((*control.shape[:2], self.model.nsensordata))
        self.work = float(len(actions) * num_envs)
        self.variant: Variant = (self, self.work)

    def _initial_states(self, data: Any, num_envs: int) -> np.ndarray:
        """(B, ...) full physics states: time, qpos, qvel, act."""
        fields = [np.asarray(getattr(data, n)).reshape(num_envs, -1) for n in ("time", "qpos", "qvel", "act")]
        states = np.concatenate(fields, axis=1, dtype=np.float64)
        assert states.shape[1] == mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        return states

    def __call__(self) -> None:
        self._pool.rollout(
            self.model,
            self._scratch,
            self._initial,
            self._control,
            initial_warmstart=self._warmstart,
            state=self._state,
            sensordata=self._sensordata,
        )

    @property
    def last_qpos(self) -> np.ndarray:
        """(B, nq) after the last step."""
        return self._state[:, -1, 1 : 1 + self.model.nq]
