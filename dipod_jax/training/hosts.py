"""One run in several processes: what its arrays are on the host, and what its processes agree on.

Every process runs the same program over the same global arrays; the first alone has the folder. Each function below is
called by all of them in the same order, and returns the same on all. In a run of one process none communicates.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dipod_jax.types import is_key


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def to_host(tree: Any) -> Any:
    """Every leaf, whole, on this host: `jax.device_get` that also gathers the parts that other processes hold."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_whole, tree)


def _whole(x: Any) -> Any:
    from jax.experimental.multihost_utils import process_allgather

    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return jax.device_get(x)
    if is_key(x):
        return jax.random.wrap_key_data(_whole(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    return np.asarray(x) if x.is_fully_replicated else process_allgather(x, tiled=True)


def place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Leaves that every process holds whole, laid over the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        if is_key(x):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree)


def largest(number: int) -> int:
    """The largest of the numbers that the processes have."""
    if jax.process_count() == 1:
        return number
    from jax.experimental.multihost_utils import process_allgather

    return int(np.max(process_allgather(np.int32(number))))


def from_first(tree: Any) -> Any:
    """The leaves that the first process has; the others give some of the same shapes and dtypes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]
    content = np.frombuffer(b"".join(x.tobytes() for x in arrays), np.uint8)  # bytes: sums of them are exact
    shared = np.asarray(broadcast_one_to_all(content)).astype(np.uint8)
    parts = np.split(shared, np.cumsum([x.nbytes for x in arrays])[:-1])
    found = [part.view(x.dtype).reshape(x.shape) for part, x in zip(parts, arrays, strict=True)]
    wrap = lambda data, x: jax.random.wrap_key_data(data, impl=jax.random.key_impl(x)) if is_key(x) else data
    return jax.tree.unflatten(structure, [wrap(data, x) for data, x in zip(found, leaves, strict=True)])


def text_from_first(text: str | None) -> str | None:
    """The text that the first process has."""
    if jax.process_count() == 1:
        return text
    content = np.frombuffer((text or "").encode(), np.uint8)
    size = int(from_first(np.int32(-1 if text is None else content.size)))
    if size < 0:
        return None
    return from_first(content if is_first() else np.zeros(size, np.uint8)).tobytes().decode()
