"""A Playground task on MuJoCo Warp, with a state in which every leaf has a world axis.

Warp writes the contacts of all worlds into buffers that they share, (naconmax, ...), so `mjx.Data` has leaves without
a world axis, some of size 0. `mujoco.mjx.warp.types.DATA_NON_VMAP` lists them; their shapes do not tell. They are
scratch space of one physics step, so a state is returned without them and each step gets new ones: the state can then
be indexed, selected from, mapped over seeds, sharded and saved leaf by leaf, as with any other backend.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mujoco import mjx
from mujoco.mjx.warp.types import DATA_NON_VMAP


class WarpTask:
    """The same `reset(key)` and `step(state, action)` of one environment; observations and rewards are the task's own.

    Args:
        task: a Playground environment with `impl="warp"`, whose state holds its `mjx.Data` in the field `data`.
    """

    def __init__(self, task: Any):
        self._task = task
        self.mj_model, self.dt, self.action_size = task.mj_model, task.dt, task.action_size
        start = jax.eval_shape(task.reset, jax.random.key(0))
        sizes = {name: getattr(start.data._impl, name) for name in ("naconmax", "naccdmax", "njmax")}
        buffers = vars(mjx.make_data(task.mj_model, impl="warp", **sizes)._impl)
        # numpy, so that a traced step does not close over an array of one device
        self._buffers = {n: np.asarray(buffers[n]) for n in DATA_NON_VMAP if isinstance(buffers[n], jax.Array)}

    def reset(self, key: jax.Array) -> Any:
        """The task's reset."""
        return self._without_buffers(self._task.reset(key))

    def step(self, state: Any, action: jax.Array) -> Any:
        """The task's step."""
        return self._without_buffers(self._task.step(self._with_buffers(state), action))

    def _without_buffers(self, state: Any) -> Any:
        return _replace_fields(state, dict.fromkeys(self._buffers))

    def _with_buffers(self, state: Any) -> Any:
        return _replace_fields(state, {name: _filled_like(value) for name, value in self._buffers.items()})


def _replace_fields(state: Any, fields: dict[str, Any]) -> Any:
    """The Playground state with these fields of Warp's own data; None is a field without leaves."""
    return state.replace(data=state.data.replace(_impl=state.data._impl.replace(**fields)))


def _filled_like(buffer: np.ndarray) -> jax.Array:
    """An array filled with the buffer's single value, so that the compiled program holds no constant of that size."""
    if buffer.size and (buffer == buffer.flat[0]).all():
        return jnp.full(buffer.shape, buffer.flat[0], buffer.dtype)
    return jnp.asarray(buffer)
