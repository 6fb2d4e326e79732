"""Checkpoints that are complete or absent, and that notice every flipped bit.

orbax writes and reads the arrays. What it lacks is added: it restores flipped bits silently, and refuses arrays of
size zero. A checkpoint is a folder

    step_000000000042/
        arrays/        written by orbax: one entry per leaf, named by its position
        leaves.json    name, shape and dtype of every leaf, in order
        SHA256SUMS     one line per file above; `sha256sum -c SHA256SUMS` checks it without this package

made under a temporary name and renamed when everything, SHA256SUMS last, is on the disk.
"""

import contextlib
import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipod_jax.runs._disk import read_bytes
from dipod_jax.runs.errors import CheckpointError, RunFolderError, reason_of
from dipod_jax.runs.integrity import WAY_OUT, verify_checkpoint, write_sums
from dipod_jax.runs.schema import check_leaves
from dipod_jax.runs.shelf import prune, put_in_place

if TYPE_CHECKING:
    import jax

ARRAYS = "arrays"
LEAVES = "leaves.json"
AS_DATA = "as_data"  # in LEAVES, of random keys that one of several processes has saved
MAX_LEAVES_BYTES = 2**26

PyTree = Any


def save_checkpoint(folder: Path, step: int, state: PyTree, *, keep: int = 2) -> Path:
    """Save `state` as the checkpoint of `step`, then remove all but the newest `keep`.

    Args:
        folder: where the checkpoints of one run lie; made if absent.
        step: training iteration, in [0, 10^12). A checkpoint of the same step is replaced.
        state: pytree of arrays: any shape, also 0-d and empty; any dtype, also bfloat16 and typed PRNG keys.
        keep: how many checkpoints stay, >= 1. Older ones go only after the new one was read back and verified.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: `keep` or `step` out of range, or a leaf that is no array.
        CheckpointError, OSError: the disk refuses it, or what was written does not read back. Older checkpoints stay.
    """
    if keep < 1:
        raise ValueError(f"keep: value {keep}; allowed: at least 1")
    if not 0 <= step < 10**12:
        raise ValueError(f"step: value {step}; allowed: 0 to 10^12 - 1")
    leaves = _named_leaves(state)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".writing-*"):  # of a run that was killed while saving
        shutil.rmtree(leftover)

    temporary = folder / f".writing-{step:012d}"
    try:
        _write_checkpoint(temporary, leaves)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise
    path = put_in_place(temporary, step)
    verify_checkpoint(path)
    prune(folder, step, keep)
    return path


def restore_checkpoint(path: Path, abstract_state: PyTree, *, partial: bool = False) -> PyTree:
    """Verify the checkpoint at `path`, then restore it, bit for bit.

    Args:
        path: a checkpoint's folder, from `latest_checkpoint`.
        abstract_state: pytree like the saved one, of arrays or `jax.ShapeDtypeStruct` (from `jax.eval_shape`). Leaves
            with a sharding are restored onto it, others onto the default device, whatever device they were saved from.
        partial: allow `abstract_state` to lack leaves that were saved; they are not read. Leaves are matched by name
            (their path from the root), so cut branches, not levels.

    Raises:
        CheckpointError: a file is missing or damaged, or the saved leaves are not those of `abstract_state`.
    """
    import jax

    path = Path(path).resolve()
    saved = check_checkpoint(path, abstract_state, partial=partial)
    index = {leaf["name"]: position for position, leaf in enumerate(saved)}
    wanted = _named_leaves(abstract_state)
    as_data = {index[leaf["name"]] for leaf in saved if AS_DATA in leaf}
    restored = _restore_arrays(path / ARRAYS, {index[name]: leaf for name, leaf in wanted}, as_data)
    return jax.tree.unflatten(jax.tree.structure(abstract_state), [restored[index[name]] for name, _ in wanted])


def check_checkpoint(path: Path, abstract_state: PyTree, *, partial: bool = False) -> list[dict[str, Any]]:
    """Raise as `restore_checkpoint` where it would, without restoring; returns what is noted of each saved leaf."""
    verify_checkpoint(path)
    saved = _read_leaves(path)
    _check_layout(path, {leaf["name"]: leaf for leaf in saved}, _named_leaves(abstract_state), partial)
    return saved


def saved_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf of the checkpoint at `path`, by name (its path from the root of the state).

    Raises:
        CheckpointError: the checkpoint is missing something or damaged.
    """
    verify_checkpoint(path)
    return {leaf["name"]: tuple(leaf["shape"]) for leaf in _read_leaves(path)}


def _named_leaves(state: PyTree) -> list[tuple[str, Any]]:
    import jax

    leaves = [(jax.tree_util.keystr(key_path), leaf) for key_path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    for name, leaf in leaves:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(f"state{name} is a {type(leaf).__name__}; allowed: arrays")
    return leaves


def _read_leaves(path: Path) -> list[dict[str, Any]]:
    try:
        leaves = json.loads(read_bytes(path / LEAVES, MAX_LEAVES_BYTES))
        check_leaves(leaves)
    except (FileNotFoundError, RecursionError, RunFolderError, ValueError) as error:
        raise CheckpointError(f"{path / LEAVES} is not a checkpoint's ({reason_of(error)}); {WAY_OUT}") from error
    return leaves


def _describe(name: str, leaf: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _how(leaf: Any) -> dict[str, bool]:
    import jax

    from dipod_jax.types import is_key

    return {AS_DATA: True} if jax.process_count() > 1 and is_key(leaf) else {}


def _is_empty(leaf: Any) -> bool:
    return 0 in leaf.shape


def _write_checkpoint(path: Path, leaves: list[tuple[str, Any]]) -> None:
    path.mkdir()
    _check_room(path, leaves)
    _save_arrays(path / ARRAYS, leaves)
    layout = [_describe(name, leaf) | _how(leaf) for name, leaf in leaves]
    (path / LEAVES).write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")
    write_sums(path)


def _check_room(path: Path, leaves: list[tuple[str, Any]]) -> None:
    """Raise OSError unless disk, quotas and limits allow for the arrays: orbax would print tracebacks of its threads.

    orbax wrote 60 to 100 kB and 500 bytes for each leaf beside the arrays, in 20 to 40 files.
    """
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize + 512 for _, leaf in leaves) + 2**17
    room = path / "room"
    room.mkdir()
    for number in range(40):
        (room / str(number)).touch()
    with (room / "0").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    shutil.rmtree(room)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's own lines on standard error: what fails is raised, and said in one line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _save_arrays(path: Path, leaves: list[tuple[str, Any]]) -> None:
    import orbax.checkpoint as ocp

    arrays = {f"{index:06d}": _storable(leaf) for index, (_, leaf) in enumerate(leaves) if not _is_empty(leaf)}
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(path, args=ocp.args.PyTreeSave(arrays))
    except Exception as error:  # it hides an OSError in a ValueError of several thousand characters
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code)) from None
        raise CheckpointError(f"{path} cannot be written ({reason_of(error)})") from error


def _storable(leaf: Any) -> Any:
    """A leaf as orbax takes it: of several processes one saves alone, and then it takes what lies on the host."""
    import jax
    import numpy as np

    from dipod_jax.types import is_key

    if jax.process_count() == 1:
        return leaf
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _checkpointer() -> Any:
    """orbax's, of this process alone."""
    import jax
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _wrapped(data: "jax.Array", key: Any) -> "jax.Array":
    """Keys of the kind of `key` from their data."""
    import jax

    kinds = ("threefry2x32", "rbg", "unsafe_rbg")
    kind = next(k for k in kinds if jax.eval_shape(lambda k=k: jax.random.key(0, impl=k)).dtype == key.dtype)
    return jax.random.wrap_key_data(data, impl=kind)


def _restore_arrays(path: Path, wanted: dict[int, Any], as_data: set[int]) -> "dict[int, jax.Array]":
    """Read the leaves at the positions of `wanted`; its values say their shape, dtype and, where given, sharding.

    Those at the positions of `as_data` are keys that were saved as their data.
    """
    import jax
    import orbax.checkpoint as ocp

    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        index: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default)
        for index, leaf in wanted.items()
    }
    for index in as_data & abstract.keys():
        data = jax.eval_shape(jax.random.key_data, abstract[index])
        abstract[index] = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=abstract[index].sharding)
    item = {f"{index:06d}": leaf for index, leaf in abstract.items() if not _is_empty(leaf)}
    arguments = ocp.args.PyTreeRestore(
        item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
    )
    try:
        with _checkpointer() as checkpointer:
            arrays = checkpointer.restore(path, args=arguments)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be restored ({reason_of(error)}); {WAY_OUT}") from error
    found = {
        index: jax.numpy.zeros(leaf.shape, leaf.dtype) if _is_empty(leaf) else arrays[f"{index:06d}"]
        for index, leaf in abstract.items()
    }
    return found | {index: _wrapped(found[index], wanted[index]) for index in as_data & found.keys()}


def _check_layout(path: Path, saved: dict[str, Any], wanted: list[tuple[str, Any]], partial: bool) -> None:
    other_program = "resume with the configuration and the version that saved it"
    for name, leaf in wanted:
        if name not in saved:
            raise CheckpointError(f"{path} has no state{name}; {other_program}")
        described = _describe(name, leaf)
        if described != {part: saved[name][part] for part in described}:
            was, now = (f"{leaf['dtype']}{leaf['shape']}" for leaf in (saved[name], described))
            raise CheckpointError(f"{path} holds state{name} as {was}, this program has {now}; {other_program}")
    surplus = saved.keys() - {name for name, _ in wanted}
    if surplus and not partial:
        raise CheckpointError(f"{path} holds state{min(surplus)}, which this program has not; {other_program}")
