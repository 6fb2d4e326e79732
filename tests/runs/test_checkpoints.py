"""A checkpoint is complete or absent, notices every flipped bit, and restores the same bits."""

import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from dipod_jax.runs import (
    CheckpointError,
    checkpoint_step,
    checkpoints,
    integrity,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    set_newer_aside,
    shelf,
    verify_checkpoint,
)


class Statistics(NamedTuple):
    mean: Any
    count: Any


def training_state(step: int = 0) -> dict[str, Any]:
    params = {"dense": {"kernel": jnp.arange(12.0).reshape(3, 4) + step, "bias": jnp.zeros(4)}}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {
        "params": params,
        "optimiser": optimiser.init(params),
        "statistics": Statistics(jnp.ones(5), jnp.float32(3.0)),
        "key": jax.random.key(step),
        "keys": jax.random.split(jax.random.key(7, impl="rbg"), 4),
        "half": jnp.array([1.0, -0.0, jnp.inf, jnp.nan], jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "bytes": np.arange(5, dtype=np.uint8),
        "step": jnp.int32(step),
        "no_mocap": jnp.zeros((8, 0, 3)),
        "nothing": None,
    }


def bits(leaf: Any) -> tuple[Any, tuple[int, ...], bytes]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    return np.dtype(leaf.dtype), np.shape(leaf), np.asarray(leaf).tobytes()


def assert_same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert [bits(leaf) for leaf in jax.tree.leaves(got)] == [bits(leaf) for leaf in jax.tree.leaves(expected)]


def abstract(state: Any) -> Any:
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints"), 42, training_state(42))


def copy_of(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / saved.name))


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def flip(file: Path, position: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_every_kind_of_leaf_is_restored_to_the_same_bits(saved):
    assert_same_bits(restore_checkpoint(saved, abstract(training_state())), training_state(42))
    assert saved.name == "step_000000000042" and checkpoint_step(saved) == 42


def test_a_restored_key_draws_what_the_saved_one_would_have_drawn(saved):
    restored = restore_checkpoint(saved, training_state())
    np.testing.assert_array_equal(jax.random.normal(restored["key"], (3,)), jax.random.normal(jax.random.key(42), (3,)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint32])
def test_random_bit_patterns_survive_including_every_nan(tmp_path, dtype):
    raw = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8).view(dtype)
    path = save_checkpoint(tmp_path, 0, {"x": jnp.asarray(raw)})
    assert np.asarray(restore_checkpoint(path, {"x": jnp.asarray(raw)})["x"]).tobytes() == raw.tobytes()


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_named(saved, tmp_path):
    path = copy_of(saved, tmp_path)
    names = {file.name for file in files(path)}
    assert {"SHA256SUMS", "leaves.json", "_METADATA"} <= names and len(names) >= 6
    rng = np.random.default_rng(0)
    for file in files(path):
        size = file.stat().st_size
        assert size > 0
        for position in {0, size - 1, *rng.integers(0, size, 6).tolist()}:
            bit = int(rng.integers(8))
            flip(file, position, bit)
            with pytest.raises(CheckpointError) as caught:
                restore_checkpoint(path, training_state())
            flip(file, position, bit)
            message = str(caught.value)
            assert "\n" not in message and "delete that folder" in message
            assert file.name == "SHA256SUMS" or str(file) in message
    verify_checkpoint(path)


def test_a_flipped_bit_anywhere_in_the_list_of_checksums_is_noticed(saved, tmp_path):
    path = copy_of(saved, tmp_path)
    sums = path / "SHA256SUMS"
    first_line = sums.read_bytes().index(b"\n") + 1
    for position in [*range(first_line), *range(first_line, sums.stat().st_size, 7)]:
        flip(sums, position, position % 8)
        with pytest.raises(CheckpointError):
            verify_checkpoint(path)
        flip(sums, position, position % 8)


def test_sha256sum_agrees_with_the_list_of_checksums(saved):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=saved, check=True)


def test_a_missing_file_is_noticed_and_a_foreign_one_is_not(saved, tmp_path):
    path = copy_of(saved, tmp_path)
    for name in (".DS_Store", "notes.txt", "arrays/Thumbs.db"):
        (path / name).write_text("x")
    (path / "arrays" / "folder").mkdir()
    assert_same_bits(restore_checkpoint(path, abstract(training_state())), training_state(42))
    (path / "leaves.json").unlink()
    with pytest.raises(CheckpointError, match=r"leaves\.json is missing"):
        verify_checkpoint(path)
    (path / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        verify_checkpoint(path)


@pytest.mark.slow
def test_a_list_of_checksums_that_was_cut_anywhere_is_noticed_or_lists_every_file(saved, tmp_path):
    path = copy_of(saved, tmp_path)
    content = (path / "SHA256SUMS").read_bytes()
    accepted = []
    for length in range(len(content)):
        (path / "SHA256SUMS").write_bytes(content[:length])
        try:
            verify_checkpoint(path)
            accepted.append(content[length:])
        except CheckpointError:
            pass
    assert len(accepted) == 1 and accepted[0].startswith(b"# ")  # all but the count: as earlier versions wrote it


def test_an_unlisted_file_of_an_earlier_versions_checkpoint_is_an_error_as_its_line_may_be_lost(saved, tmp_path):
    path = copy_of(saved, tmp_path)
    lines = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text("".join(lines[:-1]))
    (path / ".DS_Store").touch()
    verify_checkpoint(path)
    (path / "SHA256SUMS").write_text("".join(lines[1:-1]))
    with pytest.raises(CheckpointError, match="is not listed"):
        verify_checkpoint(path)


@pytest.mark.parametrize("name", ["/dev/zero", "../../../../../dev/zero"])
def test_a_list_of_checksums_leads_nowhere_else(saved, tmp_path, name):
    path = copy_of(saved, tmp_path)
    lines = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n" + "".join(lines[1:]))
    with pytest.raises(CheckpointError, match="is damaged"):
        verify_checkpoint(path)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        save_checkpoint(tmp_path, step, {"x": jnp.float32(step)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000000010", "step_000000000011"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None and restore_checkpoint(newest, {"x": jnp.float32(0)})["x"] == 11.0


def test_an_older_checkpoint_outlives_a_new_one_that_does_not_read_back(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": jnp.float32(1)}, keep=1)
    rename = Path.rename

    def rename_and_spoil(self, target):
        renamed = rename(self, target)
        flip(renamed / "leaves.json", 5, 0)
        return renamed

    monkeypatch.setattr(Path, "rename", rename_and_spoil)
    with pytest.raises(CheckpointError, match=r"leaves\.json is damaged"):
        save_checkpoint(tmp_path, 2, {"x": jnp.float32(2)}, keep=1)
    assert restore_checkpoint(tmp_path / "step_000000000001", {"x": jnp.float32(0)})["x"] == 1.0


def test_a_step_saved_again_replaces_the_first(tmp_path):
    for value in (1.0, 2.0):
        path = save_checkpoint(tmp_path, 5, {"x": jnp.float32(value)}, keep=1)
    assert restore_checkpoint(path, {"x": jnp.float32(0)})["x"] == 2.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000000005"]


def test_the_latest_is_the_newest_whole_one(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "absent") is None
    good = save_checkpoint(tmp_path, 1, {"x": jnp.float32(1)}, keep=9)
    torn = save_checkpoint(tmp_path, 2, {"x": jnp.float32(2)}, keep=9)
    assert latest_checkpoint(tmp_path) == torn
    (torn / "leaves.json").unlink()
    (tmp_path / "step_000000000003").mkdir()
    (tmp_path / ".writing-000000000004").mkdir()
    (tmp_path / "step_5").mkdir()
    with pytest.warns(UserWarning, match="from iteration 3 to iteration 1: .*step_000000000003 is not a complete"):
        assert latest_checkpoint(tmp_path) == good
    (good / "leaves.json").unlink()
    with pytest.raises(CheckpointError, match="step_000000000003 is not a complete checkpoint"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "flip"])
def test_no_damage_to_any_file_of_the_newest_is_passed_over_in_silence(tmp_path, damage):
    older, newest = (save_checkpoint(tmp_path, step, {"x": jnp.arange(9.0), "k": jax.random.key(1)}) for step in (7, 8))
    for file in files(newest):
        content = file.read_bytes()
        if damage == "delete":
            file.unlink()
        elif damage == "flip":
            flip(file, len(content) // 2, 3)
        else:
            file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
        said = []
        assert latest_checkpoint(tmp_path, say=said.append) == older
        assert len(said) == 1 and "from iteration 8 to iteration 7" in said[0] and "\n" not in said[0]
        assert file.name in said[0] or file.name == "SHA256SUMS"
        with pytest.raises(CheckpointError, match=r"iteration 8 .*--strict-resume does not go back .* iteration 7"):
            latest_checkpoint(tmp_path, strict=True)
        file.write_bytes(content)
    assert latest_checkpoint(tmp_path, strict=True) == newest


def test_a_run_that_went_back_does_not_count_the_damaged_one_among_its_newest(tmp_path):
    for step in (7, 8):
        path = save_checkpoint(tmp_path, step, {"x": jnp.float32(step)}, keep=2)
    flip(path / "leaves.json", 5, 0)
    set_newer_aside(tmp_path, 7)
    for step in (7, 8):
        save_checkpoint(tmp_path, step, {"x": jnp.float32(step + 0.5)}, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-step_000000000008", "step_000000000008"]
    newest = latest_checkpoint(tmp_path, strict=True)
    assert newest is not None and restore_checkpoint(newest, {"x": jnp.float32(0)})["x"] == 8.5


class Killed(BaseException):
    """Stands for kill -9: nothing in `save_checkpoint` runs after it."""


@pytest.fixture
def nothing_collected():
    """What earlier tests left is gone, and nothing is collected meanwhile: a lock unlinks its file as it goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("nothing_collected")
@pytest.mark.parametrize("second", [1, 2])
def test_a_save_that_stops_at_any_step_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch, second):
    def save_arrays(path: Path, leaves: list[tuple[str, Any]]) -> None:  # orbax's part, without its 0.1 s
        path.mkdir(parents=True)
        (path / "value").write_bytes(np.asarray(leaves[0][1]).tobytes())

    monkeypatch.setattr(checkpoints, "_save_arrays", save_arrays)
    monkeypatch.setattr(checkpoints, "_check_room", lambda *_: None)
    calls_left, own_thread = 0, threading.get_ident()

    def dies_at_its_turn(function):
        def wrapper(*args, **kwargs):
            nonlocal calls_left
            if threading.get_ident() == own_thread:  # threads of earlier tests rename and unlink as well
                calls_left -= 1
                if calls_left == 0:
                    raise Killed
            return function(*args, **kwargs)

        return wrapper

    steps = (
        *((checkpoints, "_save_arrays"), (integrity, "fsync_path"), (shelf, "fsync_path"), (integrity, "sha256_of")),
        *((shelf.os, "rename"), (shelf.os, "unlink"), (shelf.shutil, "rmtree")),
        *((Path, name) for name in ("mkdir", "rename", "write_text")),
    )
    outcomes = []
    for stop_at in range(1, 200):
        folder = (tmp_path / str(stop_at)).resolve()
        save_checkpoint(folder, 1, {"x": np.float32(1)}, keep=1)
        with monkeypatch.context() as patched:
            for owner, name in steps:
                patched.setattr(owner, name, dies_at_its_turn(getattr(owner, name)))
            calls_left = stop_at
            try:
                save_checkpoint(folder, second, {"x": np.float32(2)}, keep=1)
                survived = True
            except Killed:
                survived = False
        latest = latest_checkpoint(folder, strict=True)
        assert latest is not None
        value = int(np.frombuffer((latest / "arrays" / "value").read_bytes(), np.float32)[0])
        assert checkpoint_step(latest) == (value if second == 2 else 1)
        outcomes.append(value)
        save_checkpoint(folder, 3, {"x": np.float32(3)}, keep=1)
        assert [entry.name for entry in folder.iterdir()] == ["step_000000000003"]
        if survived:
            break
    assert survived and outcomes == sorted(outcomes) and outcomes.count(1) >= 12 and outcomes.count(2) >= 4


SAVER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from dipod_jax.runs import latest_checkpoint, checkpoint_step, save_checkpoint
folder = Path(sys.argv[1])
latest = latest_checkpoint(folder)
start = 0 if latest is None else checkpoint_step(latest) + 1
for step in range(start, 10**6):
    save_checkpoint(folder, step, {"x": jnp.full((300, 300), float(step)), "step": jnp.int32(step)})
"""


@pytest.mark.slow
def test_kill_9_while_saving_leaves_a_checkpoint_that_restores(tmp_path):
    steps = [-1]
    for round_number in range(2):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)])
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            latest = latest_checkpoint(tmp_path)
            if latest is not None and checkpoint_step(latest) >= steps[-1] + 2:
                break
            time.sleep(0.002)
        time.sleep(0.011 * (round_number + 1))
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        latest = latest_checkpoint(tmp_path)
        assert latest is not None
        restored = restore_checkpoint(latest, {"x": jnp.zeros((300, 300)), "step": jnp.int32(0)})
        assert restored["step"] == checkpoint_step(latest) and (restored["x"] == restored["step"]).all()
        steps.append(checkpoint_step(latest))
    assert steps[2] > steps[1] > steps[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"step": jnp.zeros(2, jnp.int32)}, r"state\['step'\] as int32\[\], this program has int32\[2\]"),
        ({"step": jnp.float32(0)}, r"state\['step'\] as int32\[\], this program has float32\[\]"),
        ({"key": jax.random.key(0, impl="rbg")}, r"state\['key'\] as key<fry>\[\], this program has key<rbg>\[\]"),
        ({"surprise": jnp.zeros(1)}, r"has no state\['surprise'\]"),
        ({"step": None}, r"holds state\['step'\], which this program has not"),
    ],
)
def test_a_checkpoint_of_another_program_is_refused_and_the_leaf_named(saved, change, expected):
    with pytest.raises(CheckpointError, match=expected) as caught:
        restore_checkpoint(saved, {**training_state(), **change})
    assert "\n" not in str(caught.value)


def test_a_partial_restore_reads_the_branches_asked_for(saved):
    wanted = {"params": training_state()["params"], "statistics": training_state()["statistics"]}
    restored = restore_checkpoint(saved, wanted, partial=True)
    assert_same_bits(restored, {"params": training_state(42)["params"], "statistics": training_state(42)["statistics"]})
    with pytest.raises(CheckpointError, match="which this program has not"):
        restore_checkpoint(saved, wanted)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    for arguments, message in (
        ((1, {"rate": 0.5}), r"state\['rate'\] is a float; allowed: arrays"),
        ((-1, {}), "step: value -1"),
    ):
        with pytest.raises(ValueError, match=message):
            save_checkpoint(tmp_path / "none", *arguments)
    with pytest.raises(ValueError, match="keep: value 0; allowed: at least 1"):
        save_checkpoint(tmp_path / "none", 1, {"x": jnp.zeros(1)}, keep=0)
    assert not (tmp_path / "none").exists()
