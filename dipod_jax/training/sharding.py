"""Where arrays lie: seeds over devices, or one seed's environments and minibatches.

Programs are written in global view, as if there were one device: a mean over a sharded axis is the mean over all
devices, and no number depends on how many there are but for the order of sums. This file says how arrays are laid out;
only physics (`envs.batched`) is told of its own shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dipod_jax.config import Config
from dipod_jax.runs.errors import MachineError

SEED, DATA = "seed", "data"
BLOCKS = 8
MIN_ENVS_PER_DEVICE = 16  # below, a device spends its time on the overhead of small operations


def _refusal(config: Config, num_seeds: int, num_devices: int) -> str:
    columns = config.columns_per_minibatch
    return (
        f"--distributed is not allowed: {jax.process_count()} processes have {num_devices} devices, over which neither "
        f"{num_seeds} seeds nor {config.rollout.num_envs} environments in minibatches of {columns} columns can be "
        f"spread evenly; give as many seeds, or a --rollout.num-envs that is a multiple of {num_devices} and at least "
        f"{MIN_ENVS_PER_DEVICE * num_devices}, and a --learning.minibatch-size to match"
    )


def over_seeds(function: Callable) -> Callable:
    """Map over a leading seed axis: vmapped on an accelerator, one seed after the other on a CPU core, which is faster
    there than batched matrix products."""
    if jax.default_backend() == "cpu":
        return lambda *args: jax.lax.map(lambda a: function(*a), args)
    return jax.vmap(function)


@dataclass(frozen=True)
class Layout:
    """A mesh ("seed", "data"), of which one axis is 1."""

    mesh: Mesh

    @classmethod
    def of(cls, config: Config, num_seeds: int) -> Layout:
        """Spread seeds over devices where their number divides, else one seed's environments where that divides.

        A CPU is as many devices as it has cores, so that one seed uses them all without waiting for threads inside
        each small operation, and several seeds never wait for each other.
        """
        devices = np.array(jax.devices())
        if num_seeds % len(devices) == 0:
            shape = (len(devices), 1)
        else:
            num_envs = config.rollout.num_envs
            most = max(1, min(len(devices), num_envs // MIN_ENVS_PER_DEVICE))
            divides = lambda n: num_envs % n == 0 and config.columns_per_minibatch % n == 0
            shape = (1, max(n for n in range(1, most + 1) if divides(n)))
            if jax.process_count() > 1 and shape[1] < len(devices):
                raise MachineError(_refusal(config, num_seeds, len(devices)))
        return cls.on(devices[: shape[0] * shape[1]].reshape(shape))

    @classmethod
    def on(cls, devices: np.ndarray) -> Layout:
        """The layout on an array of devices (seed, data), of which one axis is 1."""
        return cls(Mesh(devices, (SEED, DATA), axis_types=(AxisType.Auto, AxisType.Auto)))

    @property
    def shards(self) -> int:
        """Devices over which one seed's environments are spread."""
        return self.mesh.shape[DATA]

    def num_blocks(self, config: Config) -> int:
        """Blocks of environments, each shuffled by itself: 8 where that divides, so that on 1, 2, 4 and 8 devices every
        minibatch holds the same rows, and no row leaves its device."""
        divides = lambda n: config.rollout.num_envs % n == 0 and config.columns_per_minibatch % n == 0
        return max(n for n in range(self.shards, max(BLOCKS, self.shards) + 1, self.shards) if divides(n))

    @property
    def env_mesh(self) -> Mesh | None:
        """The mesh for `envs.make`; None if a seed's environments lie on one device."""
        return self.mesh if self.shards > 1 else None

    def sharding(self, *axes: str | None) -> NamedSharding:
        """The sharding of an array with these leading axes."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def rows(self, tree: Any) -> Any:
        """Inside a seed's program: lay the first axis of every leaf over the data devices."""
        return self._constrain(tree, PartitionSpec(DATA))

    def whole(self, tree: Any) -> Any:
        """Inside a seed's program: every device holds all of every leaf."""
        return self._constrain(tree, PartitionSpec())

    def _constrain(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.shards == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec)), tree)

    def over_seeds(self, function: Callable) -> Callable:
        """Map over a leading seed axis, as `over_seeds` on each device."""
        mapped = over_seeds(function)
        if self.mesh.shape[SEED] == 1:
            return mapped
        spread = partial(jax.shard_map, mesh=self.mesh, in_specs=PartitionSpec(SEED), out_specs=PartitionSpec(SEED))
        return spread(mapped, check_vma=False)
