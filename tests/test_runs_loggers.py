"""Scalars reach TensorBoard's own file format and wandb's own calls, and a missing wandb is one line."""

import importlib.machinery
import importlib.util
import struct
import subprocess
import sys
import types

import pytest

from dipod_jax.runs import check_logger, make_logger


def tensorboard_scalars(folder) -> list[tuple[int, str, float]]:
    """Read event files as TensorFlow records: length (u64), its CRC (u32), the event, its CRC (u32)."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    content, scalars = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        scalars += [
            (event.step, value.tag, value.simple_value)
            for value in event.summary.value
            if value.WhichOneof("value") == "simple_value"
        ]
        content = content[16 + length :]
    return scalars


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
    expected = {"project": "dipod-jax", "name": "BallInCup", "config": {"sizes": [64, 64]}, "dir": str(tmp_path)}
    assert calls == [("init", expected), ("log", 5, {"return": 2.0}), ("finish",)]
