"""What lies in a folder may be from anywhere: it reads as what a run writes, or is one line of ours."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated

from dipod_jax.presets import smoke
from dipod_jax.runs import CheckpointError, RunFolder, RunFolderError, latest_checkpoint, save_checkpoint, saved_shapes
from dipod_jax.runs.schema import checked_record, parse_object
from dipod_jax.serialisation import from_json, to_json

RESULT = {
    "task": "BallInCup",
    "seeds": [4, 2],
    "env_steps": 160,
    "wall_clock_s": 12.5,
    "env_steps_per_s": None,
    "final_return": {"mean": 1.5, "ci95": [1.0, 2.0], "ci95_over": "seeds", "per_seed": [1.0, 2.0]},
    "seconds_to": {"500": [None, 3.0]},
    "note": None,
}


def head(kind, iteration):
    return {"kind": kind, "seed": 4, "iteration": iteration, "env_steps": 16 * iteration, "wall_clock_s": 0.5}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = RunFolder.create(tmp_path_factory.mktemp("original") / "run", to_json(smoke("BallInCup", "fpo")))
    for iteration in range(3):
        folder.append_metrics({**head("evaluation", iteration), "return_mean": 1.5, "zero_noise_return_mean": None})
        folder.append_metrics({**head("train", iteration + 1), "loss": -1.0e-3, "gap": None})
    folder.write_result(RESULT)
    folder.close()
    for step in (1, 2):
        save_checkpoint(folder.checkpoints, step, {"x": np.arange(9.0), "n": np.int32(step)})
    return folder.path


def read_everything(path: Path) -> None:
    """All that the library reads of a folder; raises errors of ours only, else hands on what has the right types."""
    folder = RunFolder.open(path)
    try:
        from_json(folder.config)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    assert isinstance(folder.config, dict) and isinstance(folder.provenance.get("command", ""), str)
    for record in folder.read_metrics():
        assert all(type(record[name]) is int for name in ("seed", "iteration", "env_steps"))
        assert record["wall_clock_s"] + 1.0 > 0 and record["kind"] in ("train", "drift", "evaluation")
        assert record["kind"] != "evaluation" or isinstance(record["return_mean"] + 0.0, float)
    result = folder.read_result()
    assert result is None or type(result["env_steps"]) is int
    json.dumps([folder.config, result]).encode()
    checkpoint = latest_checkpoint(folder.checkpoints, say=lambda line: None)
    if checkpoint is not None:
        saved_shapes(checkpoint)


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_right_or_refused_in_one_line(original, tmp_path, count):
    rng = random.Random(count)
    names = ["config.json", "metrics.jsonl", "result.json"] * 4
    names += [str(file.relative_to(original)) for file in original.rglob("step_*2/**/*") if file.is_file()]
    names += ["checkpoints/step_000000000002/leaves.json", "checkpoints/step_000000000002/SHA256SUMS"]
    path = tmp_path / "run"
    shutil.copytree(original, path)
    refused = 0
    for number in range(count):
        name = rng.choice(names)
        content = (original / name).read_bytes()
        (path / name).write_bytes(mutated(content, rng))
        before = time.monotonic()
        try:
            read_everything(path)
        except (RunFolderError, CheckpointError) as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600, (number, name)
            str(error).encode()
        assert time.monotonic() - before < 5.0
        (path / name).write_bytes(content)
    read_everything(path)
    assert count * 0.2 < refused < count * 0.9


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": -Infinity}',
        '{"a": "\\ud800"}',
        '{"a": 1' + "0" * 5000 + "}",
        "[" * 200_000,
        '{"a":' * 17 + "1" + "}" * 17,
        "3",
        "\ufeff{}",
        "",
        '{"a": 9223372036854775808}',
        '{"a": 1, "b": [{"c": 1, "c": 2}]}',
    ],
)
def test_what_json_or_a_machine_cannot_hold_is_refused(text):
    with pytest.raises(ValueError) as caught:
        parse_object(text.encode())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_brackets_in_text_and_whole_characters_are_no_offence():
    value = {"a": "[" * 100 + '\\"' + "{" * 100, "b": "\U0001f600", "c": [[[[1]]]]}
    assert parse_object(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "change",
    [{"kind": "evaluatiom"}, {"seed": -1}, {"seed": True}, {"iteration": 1.5}, {"iteration": None}, {"loss": {}}]
    + [
        {"wall_clock_s": "1"},
        {"wall_clock_s": -1.0},
        {"kind": "evaluation", "return_mean": "high"},
        {"kind": "evaluation"},
    ],
)
def test_a_record_of_other_types_or_without_its_keys_is_refused(change):
    assert checked_record(head("train", 1)) == head("train", 1)
    with pytest.raises(ValueError, match=r"is|not"):
        checked_record(head("train", 1) | change)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
def test_a_pipe_a_folder_and_a_file_of_a_terabyte_are_refused_at_once(original, tmp_path, name):
    path = tmp_path / "run"
    shutil.copytree(original, path)
    for make in (os.mkfifo, os.mkdir, lambda file: (Path(file).touch(), os.truncate(file, 2**40))):
        (path / name).unlink() if not (path / name).is_dir() else (path / name).rmdir()
        make(path / name)
        with pytest.raises(RunFolderError, match=f"{name} (is no file|has 1099511627776 bytes)"):
            read_everything(path)


LIMITED = """
import resource, sys
from pathlib import Path
from dipod_jax.runs import RunFolder, RunFolderError
limit = 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    RunFolder.open(Path(sys.argv[1]))
except RunFolderError as error:
    print(error)
"""


def test_reading_a_hostile_config_takes_no_memory(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ' + "[" * 900_000)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "nested more than 16 deep" in done.stdout and done.stderr == ""
