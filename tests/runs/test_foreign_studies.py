"""What lies in a study's folder may be from anywhere, too: of a sweep, of the comparison and of the language study."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import fake_config
from mutations import mutated

from dipod_jax.language.config import from_json, make_config, to_json
from dipod_jax.report import study as report
from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.serialisation import to_json as control_to_json
from dipod_jax.studies.begun import begun, check_begun
from dipod_jax.studies.methods import options as methods_options
from dipod_jax.studies.methods import results as methods
from dipod_jax.studies.sweep import states
from dipod_jax.studies.sweep.plan import extend_plan, make_unit, planned_by, read_plan
from dipod_jax.studies.table1 import options as table1_options
from dipod_jax.studies.table1 import results as table1
from dipod_jax.studies.table1.study import make_units

ROOT = Path(__file__).resolve().parents[2]
HEAD = {"kind": "evaluation", "seed": 0, "iteration": 1, "env_steps": 16, "wall_clock_s": 0.5, "return_mean": 1.5}


def write_sweep(out):
    base = fake_config(out)
    (unit, *_) = units = [make_unit(out, replace(base, beta=beta), {"x": "1"}, "--seeds 1") for beta in (0.0, 0.1)]
    extend_plan(out, units, "dipod sweep")
    states.record_failure(unit, "session", "RuntimeError: it ended")
    folder = RunFolder.create(unit.folder, control_to_json(unit.config))
    for iteration in (0, 1):
        folder.append_metrics({**HEAD, "iteration": iteration, "greedy": 0.5})
    folder.close()


def read_sweep(out):
    for part in (report._planned, planned_by, report._failed):
        part(out)
    for unit in read_plan(out):
        assert states.state_of(unit, "session") in ("done", "failed", "running", "waiting")
        steps, mean = states.position(unit)
        assert type(steps) is int and (mean is None or mean + 0.0 is not None)
        assert all(failure["error"] + failure["session"] for failure in states.failures(unit))
        assert unit.logs.parent.parent == out and unit.folder.parent.parent == out


METHODS = methods_options.Config(objectives=("fpo",), tasks=("BallInCup",))


def write_comparison(out):
    point = {"env_steps": 8, "return": [1.0, None], "zero_noise": [1.0, 2.0]}
    result = {"task": "BallInCup", "objective": "fpo", "reported": True, "tuned_in": "t", "rate": 1.0, "trust": 1.0}
    result |= {"beta": 0.0, "seeds": [1, 2], "env_steps": 8, "evaluations": [point], "skipped_updates": [0.0, 0.0]}
    result |= {"drift": [{"env_steps": 8, "gap": [0.5, 0.5], "cosine": [0.1, None]}], "training_s": 1.0}
    (out / "a" / "b" / "c").mkdir(parents=True)
    (out / "a" / "b" / "c" / "result.json").write_text(json.dumps(result | {"compile_s": 1.0, "evaluation_s": 1.0}))
    (out / "a" / "b" / "c" / "failure.json").write_text(json.dumps({"error": "RuntimeError", "rate": 1.0}))
    with begun(out, METHODS.settings()):
        pass


def read_comparison(out):
    check_begun(out, METHODS.settings())
    methods.write_results(out)


def write_table1(out):
    unit = make_units(table1_options.Config(seeds=1, tasks=("sudoku",), groups=("table",), out=out))[0]
    folder = RunFolder.create(unit.folder, to_json(unit.config))
    folder.append_metrics({**HEAD, "greedy": 0.5})
    each = {"mean": 0.5, "per_seed": [0.5]}
    result = {"task": "sudoku", "samples": 8, "built_in_beta": 0.0, "seeds": [0], "before": {"greedy": each}}
    folder.write_result(result | {"final": {"greedy": each, "drift/gap": each}, "training_s": 1.0, "wall_clock_s": 1.0})
    folder.close()
    arm = {name: getattr(unit.arm, name) for name in ("task", "group", "method", "beta", "control")}
    (unit.folder / "arm.json").write_text(json.dumps(arm | {"learning_rate": 1e-3, "num_iterations": 90}))
    with begun(out, {"num_iterations": None}):
        pass


def read_table1(out):
    check_begun(out, {"num_iterations": None})
    table1.write_results(out)


def write_language(out):
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"config": to_json(make_config("countdown", "spg"))}))


def read_language(out):
    config = from_json(RunFolder.open(out).config)
    assert len(config.all_seeds) < 1e5 and config.build_network()


KINDS = {
    "sweep": (write_sweep, read_sweep),
    "comparison": (write_comparison, read_comparison),
    "table1": (write_table1, read_table1),
    "language": (write_language, read_language),
}


@pytest.fixture(params=KINDS)
def study(request, tmp_path, monkeypatch):
    """A study's folder, what reads it, and its files of JSON."""
    monkeypatch.setattr(table1, "draw", lambda *_: None)
    monkeypatch.setattr(methods, "draw", lambda *_: None)
    write, read = KINDS[request.param]
    out = tmp_path / "study"
    write(out)
    files = sorted([*out.rglob("*.json*"), *out.rglob("plan.csv")])
    read(out)
    return out, read, files


def refusal(read, out):
    """The line that refuses; None where the folder is read."""
    before = time.monotonic()
    try:
        read(out)
        line = None
    except (RunFolderError, ValueError) as error:
        line = str(error)
        assert type(error) in (RunFolderError, ValueError) and "\n" not in line and len(line) < 700
        line.encode()
    assert time.monotonic() - before < 5.0
    return line


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_a_mutated_file_of_a_study_is_read_right_or_refused_in_one_line(study, count):
    out, read, files = study
    rng = random.Random(count)
    originals = {path: path.read_bytes() for path in files}
    lines = []
    for _ in range(count):
        path = rng.choice(files)
        path.write_bytes(mutated(originals[path], rng))
        lines.append(refusal(read, out))
        path.write_bytes(originals[path])
    read(out)
    assert 0.1 * count < sum(line is not None for line in lines) <= count


@pytest.mark.parametrize("what", ["folder", "pipe", "loop", "empty", "large"])
def test_what_is_no_file_in_place_of_one_neither_hangs_nor_is_a_traceback(study, what):
    out, read, files = study
    for path in files:
        kept = path.with_name("kept")
        path.rename(kept)
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "loop":
            path.symlink_to(path.name)
        else:
            path.touch()
            os.truncate(path, 2**40 if what == "large" else 0)
        refusal(read, out)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)
    read(out)


def test_names_of_a_foreign_plan_do_not_lead_out_of_its_folder(tmp_path):
    write_sweep(tmp_path / "s")
    path = tmp_path / "s" / "plan.json"
    plan = json.loads(path.read_text())
    for key, value in (("id", "../../x"), ("id", ""), ("name", ".."), ("name", ""), ("name", "a/b")):
        foreign = {"units": [{**plan["units"][0], key: value}]}
        path.write_text(json.dumps(foreign))
        with pytest.raises(RunFolderError, match=f"'{key}' is "):
            read_plan(tmp_path / "s")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_study_ends_soon_after_a_signal_whatever_it_computes(tmp_path, number, status):
    lines = ["import sys, time", "from pathlib import Path", "from dipod_jax.studies.begun import begun"]
    lines += ["with begun(Path(sys.argv[1]), {}):", "    print('begun', flush=True)", "    time.sleep(60)"]
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.communicate(timeout=5)[1] == "interrupted; the same command goes on\n"
    assert process.returncode == status
