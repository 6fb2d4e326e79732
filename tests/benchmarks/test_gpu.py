"""`benchmarks.gpu` in small on a CPU: every part runs, and what finds no time says so."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks._report import Row
from benchmarks._timing import Spread


def run(out, *arguments):
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "gpu.json").read_text())["rows"]
    return {(row["what"], row["variant"], row["unit"]): row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mjx", "warp"])
def test_every_part_runs_in_small(tmp_path, backend):
    rows = run(tmp_path, "--backends", backend, "--budget-s", "1800", "--betas", "0.002")
    for what in ("BallInCup 32 envs, 1 seed", "BallInCup 32 envs, 2 seeds"):
        rates = [rows[what, f"{backend} {part}", "env steps/s"]["value"]["median"] for part in ("acting", "learning")]
        whole = rows[what, f"{backend} whole", "env steps/s"]["value"]["median"]
        assert whole == pytest.approx(1 / sum(1 / r for r in rates), rel=0.01)
    what = "BallInCup smoke beta 0.002"
    if backend == "warp":  # a run of it is refused without CUDA, and the row says so
        assert "ended with status 2" in rows[what, "warp", ""]["note"]
    else:
        assert "at 0.01M env steps" in rows[what, "mjx", "return"]["note"]
        assert "status 0" in rows[what, "mjx", "env steps/s"]["note"]
    assert ("tests marked gpu", "pytest", "s") in rows


def test_without_time_nothing_is_begun_and_each_row_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "_tests", lambda seconds: gpu._failure("tests", "pytest", "not done"))
    before = time.perf_counter()
    rows = gpu.measure(gpu.GpuOptions(budget_s=1e-9))
    assert time.perf_counter() - before < 30
    assert [row.note for row in rows[1:]] == ["not measured: no time left"] * 12 + ["not run: no time left"] * 2
    assert {row.variant for row in rows[1:-2]} == {"mjx", "warp"}


def test_the_runs_take_the_backend_with_the_fastest_iterations():
    rate = lambda variant, value: Row("", variant, Spread.of([value]), "env steps/s")
    rows = [rate("mjx whole", 5.0), rate("mjx acting", 99.0), rate("warp whole", 3.0), rate("warp whole", 7.0)]
    assert gpu._fastest(rows, ("mjx", "warp")) == "warp"
    assert gpu._fastest([], ("mjx", "warp")) == "mjx"


def test_a_failure_is_a_row_with_its_last_line(monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("first line\nout of memory")
        yield

    monkeypatch.setattr(gpu, "_cell", fails)
    (row,) = gpu._speeds(gpu.GpuOptions(num_envs=(32,), num_seeds=(1,), backends=("mjx",)), lambda: 1.0)
    assert row.note == "failed: out of memory" and "first line" in capsys.readouterr().err


def test_the_tests_marked_gpu_are_all_in_the_file_that_is_run():
    marked = [path for path in Path("tests").rglob("test_*.py") if re.search(r"\bmark\.gpu\b", path.read_text())]
    assert [str(path) for path in marked if path.name != "test_gpu.py"] == [gpu.TESTS]
