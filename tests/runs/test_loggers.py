"""Scalars reach TensorBoard's own file format and wandb's own calls, and a missing wandb is one line."""

import importlib.machinery
import importlib.util
import json
import struct
import subprocess
import sys
import threading
import time
import types

import pytest

from dipod_jax.runs import check_logger, loggers, make_logger
from dipod_jax.runs.loggers import GuardedLogger


def events_of(path):
    """Read an event file as TensorFlow records: length (u64), its CRC (u32), the event, its CRC (u32)."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def tensorboard_scalars(folder) -> list[tuple[int, str, float]]:
    (path,) = folder.glob("events.out.tfevents.*")
    values = [(event.step, value) for event in events_of(path) for value in event.summary.value]
    return [(step, v.tag, v.simple_value) for step, v in values if v.WhichOneof("value") == "simple_value"]


def test_tensorboard_events_hold_what_was_logged(tmp_path):
    logger = make_logger("tensorboard", tmp_path, {"beta": 0.002, "sizes": (64, 64)}, "BallInCup")
    logger.log(1000, {"return": 12.5, "loss": 0.25})
    logger.log(2000, {"return": 25.0})
    logger.close()
    expected = [(1000, "return", 12.5), (1000, "loss", 0.25), (2000, "return", 25.0)]
    assert tensorboard_scalars(tmp_path / "tensorboard") == expected


def test_a_value_that_is_not_finite_is_logged_without_an_error(tmp_path):
    logger = make_logger("tensorboard", tmp_path, {}, "run")
    logger.log(1, {"gap": float("inf")})
    logger.close()
    assert tensorboard_scalars(tmp_path / "tensorboard") == [(1, "gap", float("inf"))]


def test_tensorboard_needs_neither_tensorflow_nor_jax(tmp_path):
    code = (
        "import sys; from dipod_jax.runs import make_logger; from pathlib import Path;"
        f"make_logger('tensorboard', Path({str(tmp_path)!r}), {{}}, 'x').close();"
        "print([m for m in ('tensorflow', 'tensorboard', 'torch', 'jax') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_none_writes_nothing(tmp_path):
    logger = make_logger("none", tmp_path, {}, "run")
    logger.log(1, {"return": 1.0})
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_wandb_is_one_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^--logger: value 'wandb'; .*pip install 'dipod-jax\[wandb\]'.*tensorboard"):
        make_logger("wandb", tmp_path, {}, "run")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_logger_is_one_line_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"--logger: value 'mlflow'; allowed: tensorboard, wandb, none"):
        check_logger("mlflow")


def test_wandb_receives_the_configuration_the_scalars_and_the_end(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, scalars, step):
            calls.append(("log", step, scalars))

        def finish(self):
            calls.append(("finish",))

    def init(**arguments):
        calls.append(("init", arguments))
        return Run()

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setattr(module, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    logger = make_logger("wandb", tmp_path, {"sizes": (64, 64)}, "BallInCup")
    logger.log(5, {"return": 2})
    logger.close()
    (kept,) = json.loads((tmp_path / "wandb.json").read_text()).values()
    shown = {"project": "dipod-jax", "name": "BallInCup", "config": {"sizes": [64, 64]}, "dir": str(tmp_path)}
    expected = {**shown, "id": kept, "resume": "allow"}
    assert calls == [("init", expected), ("log", 5, {"return": 2.0}), ("finish",)]
    calls.clear()
    make_logger("wandb", tmp_path, {"sizes": (64, 64)}, "BallInCup", resumed_at=5).close()  # goes on under its id
    assert calls == [("init", expected), ("finish",)]


def test_each_of_several_seeds_is_a_run_of_its_own_in_tensorboard(tmp_path):
    logger = make_logger("tensorboard", tmp_path, {}, "run", seeds=(3, 5))
    for seed in (3, 5):
        logger.log(7, {"return": float(seed)}, seed)
    logger.close()
    assert tensorboard_scalars(tmp_path / "tensorboard" / "seed3") == [(7, "return", 3.0)]
    assert tensorboard_scalars(tmp_path / "tensorboard" / "seed5") == [(7, "return", 5.0)]


def leveldb_log(content: bytes):
    """Records of an offline run's file: 7 bytes, then LevelDB's log of 32 KiB blocks (checksum, length, type, data)."""
    block, at, record = 32768, 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block  # what is left of a block is no header
            continue
        length, part = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_each_of_several_seeds_is_a_run_of_wandb_in_the_group_of_its_sweep(tmp_path, monkeypatch):
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "figure2")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = make_logger("wandb", tmp_path, {"beta": 0.5}, "unit", seeds=(3, 5), say=pytest.fail)
    for value, seed in enumerate((3, 5)):
        logger.log(7, {"return": float(value)}, seed)
    logger.close()
    shown = {}
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        records = [Record.FromString(data) for data in leveldb_log(path.read_bytes())]
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        history = {
            (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
            for record in records
            if record.WhichOneof("record_type") == "history"
            for item in record.history.item
        }
        shown[run.display_name] = (run.run_group, history["return"], history["_step"])
    assert shown == {"unit-seed3": ("figure2", 0.0, 7), "unit-seed5": ("figure2", 1.0, 7)}


def what_tensorboard_shows(folder) -> list[tuple[int, str, float]]:
    """Scalars of all event files, in order; a file's start mark takes back what came before of its step and later."""
    from tensorboardX.proto.event_pb2 import SessionLog

    shown = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in events_of(path):
            if event.session_log.status == SessionLog.START:
                shown = [scalar for scalar in shown if scalar[0] < event.step]
            shown += [(event.step, v.tag, v.simple_value) for v in event.summary.value if v.tag == "x"]
    return shown


def test_after_a_resume_tensorboard_shows_every_step_once(tmp_path):
    for resumed_at, steps in ((None, (1, 2, 3)), (2, (3, 4)), (4, (5,))):
        logger = make_logger("tensorboard", tmp_path, {}, "run", resumed_at=resumed_at)
        for step in steps:
            logger.log(step, {"x": step + len(steps) / 10})
        logger.close()
    shown = what_tensorboard_shows(tmp_path / "tensorboard")
    assert [step for step, _, _ in shown] == [1, 2, 3, 4, 5]
    assert [round(value % 1, 1) for _, _, value in shown] == [0.3, 0.3, 0.2, 0.2, 0.1]
    make_logger("tensorboard", tmp_path, {}, "run", resumed_at=-1).close()  # begun again
    assert what_tensorboard_shows(tmp_path / "tensorboard") == []


class Failing:
    """A logger whose `log` raises, or never returns."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def log(self, step, scalars, seed=None):
        if self.error is None:
            threading.Event().wait()
        raise self.error

    def close(self):
        pass


def test_a_logger_that_fails_is_given_up_and_that_is_said_once():
    said = []
    logger = GuardedLogger(lambda: Failing(OSError(28, "No space left on device")), "tensorboard", said.append)
    for step in range(100):
        logger.log(step, {"x": 1.0})
        time.sleep(0.001)
    logger.close()
    expected = "warning: nothing more is logged to tensorboard (no space left on device); training goes on without it"
    assert said == [expected]


def test_a_logger_that_hangs_neither_blocks_training_nor_its_end(monkeypatch):
    monkeypatch.setattr(loggers, "MAX_WAITING", 10)
    monkeypatch.setattr(loggers, "CLOSE_S", 0.05)
    said = []
    slow = GuardedLogger(lambda: Failing(None), "wandb", said.append)
    for step in range(100):
        slow.log(step, {"x": 1.0})
    slow.close()
    assert said == ["warning: nothing more is logged to wandb (it is 10 records behind); training goes on without it"]
    hanging = GuardedLogger(lambda: Failing(None), "wandb", said.append)
    hanging.log(0, {"x": 1.0})
    hanging.close()
    assert len(said) == 2 and "it did not end within 0 s" in said[1]


def test_a_logger_that_cannot_be_opened_is_said_before_training(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    said = []
    logger = make_logger("tensorboard", tmp_path, {}, "run", seeds=(3, 5), say=said.append)
    for seed in (3, 5):
        logger.log(1, {"x": 1.0}, seed)
    logger.close()
    assert len(said) == 1 and "not a directory" in said[0]


LIMITED = """
import resource, sys
from pathlib import Path
from dipod_jax.runs import make_logger
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
logger = make_logger("tensorboard", Path(sys.argv[1]), {}, "run")
for step in range(5_000):
    logger.log(step, {"x": float(step)})
logger.close()
print("the end")
"""


def test_five_thousand_events_past_a_limit_of_20_kB_are_dropped_and_the_program_ends(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    warning, end = done.stdout.splitlines()
    assert "tensorboard (file too large)" in warning and end == "the end" and done.stderr == ""
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.stat().st_size == 20_000
