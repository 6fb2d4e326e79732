"""A language run that is stopped or killed goes on as if it had not been."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.commands import evaluate, language, train
from dipod_jax.language import loop
from dipod_jax.language.config import MeasureOptions, NetworkOptions, make_config, to_json
from dipod_jax.language.evaluation import Accuracy
from dipod_jax.language.post_training import make_programs
from dipod_jax.language.pretrain import init_params
from dipod_jax.language.replay import load_run
from dipod_jax.language.sudoku import Sudoku
from dipod_jax.options import override
from dipod_jax.presets import make_config as make_control_config
from dipod_jax.runs import RunFolder, latest_checkpoint, save_checkpoint
from dipod_jax.runs.signals import Stopped
from dipod_jax.serialisation import to_json as control_json

SECONDS = ("wall_clock_s", "training_s", "measuring_s", "evaluation_s", "pretraining_s")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Sudoku with 3 blanks, 5 iterations, beta adjusted at every second one; the parameters are untrained."""
    base = make_config(
        beta="auto",
        seeds=2,
        problems=Sudoku(blanks=3, puzzles_per_grid=2),
        pretrained=tmp_path_factory.mktemp("pretrained"),
        network=NetworkOptions(width=16, num_layers=1),
        measure=MeasureOptions(drift_interval=2, evaluation_interval=2, num_problems=8),
        checkpoint_interval=0.0,
    )
    save_checkpoint(base.pretrained, 0, jax.jit(partial(init_params, base.build_network()))(jax.random.key(0)))
    return override(base, {"learning.num_iterations": 5})


@pytest.fixture(scope="module")
def programs(config):
    """Of a learner that walks at random, by its key, its iteration and beta, and is measured by how far it has come."""

    def walk(state):
        key = jax.random.fold_in(state.key, state.iteration)
        step = lambda x: x + state.tunables.beta * jax.random.normal(key, x.shape)
        params = jax.tree.map(step, state.params)
        metrics = {"beta": state.tunables.beta, "reward": jax.random.uniform(key)}
        return state._replace(params=params, iteration=state.iteration + 1), metrics

    distance = lambda state: sum(jnp.abs(leaf).mean() for leaf in jax.tree.leaves(state.params))
    measure = lambda state: {"gap": distance(state), "entropy": -distance(state)}
    return dataclasses.replace(
        make_programs(config),
        iterate=jax.jit(jax.vmap(walk), donate_argnums=0),
        measure=jax.jit(jax.vmap(measure)),
        evaluate=lambda state, problems: Accuracy(*[jax.vmap(lambda s: jnp.full(8, distance(s)))(state)] * 6),
    )


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Reports take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_report", lambda folder: None)
        patch.setattr(loop, "plot_language", lambda records, path, title: path.touch())
        yield


@pytest.fixture(scope="module")
def whole(config, programs, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    loop.train(dataclasses.replace(config, out=path), programs=programs, say=lambda line: None)
    return path


def without_seconds(value):
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if name not in SECONDS}
    return value


def what_a_run_left(path):
    folder = RunFolder.open(path)
    params = [np.asarray(x) for seed in (0, 1) for x in jax.tree.leaves(load_run(path, seed).params)]
    return [without_seconds(r) for r in folder.read_metrics()], without_seconds(folder.read_result()), params


def assert_same_run(path, whole):
    (records, result, params), (records_, result_, params_) = what_a_run_left(path), what_a_run_left(whole)
    assert records == records_ and result == result_
    for one, other in zip(params, params_, strict=True):
        np.testing.assert_array_equal(one, other)


class Killed(BaseException):
    """Ends a run where it stands, as no exception of its own does."""


def killed_after(number, programs, what="iterate"):
    """Programs that die in the call `number` of one of them, counted from 0."""
    calls = iter(range(1000))

    def call(*arguments):
        if next(calls) == number:
            raise Killed
        return getattr(programs, what)(*arguments)

    return dataclasses.replace(programs, **{what: call})


def go_on(config, programs, path, **values):
    said = []
    loop.train(dataclasses.replace(config, resume=True, out=path, **values), programs=programs, say=said.append)
    return said


@pytest.mark.parametrize(
    "what, number",
    [
        ("iterate", 0),
        ("iterate", 3),
        ("measure", 1),
        ("evaluate", 2),
    ],
)
def test_a_run_killed_anywhere_is_bit_for_bit_the_one_that_was_not(what, number, config, programs, whole, tmp_path):
    with pytest.raises(Killed):
        loop.train(
            dataclasses.replace(config, out=tmp_path),
            programs=killed_after(number, programs, what),
            say=lambda line: None,
        )
    go_on(config, programs, tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_kill_between_the_seeds_records_of_a_measurement_leaves_each_of_them_once(config, programs, whole, tmp_path):
    run = loop.Run(dataclasses.replace(config, out=tmp_path), programs, lambda line: None)
    run.start()
    run.iterate()
    run.iterate()
    run.close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in lines[-4:]] == ["drift", "drift", "evaluation", "evaluation"]
    path.write_bytes(b"".join(lines[:-3]))
    go_on(config, programs, tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_signal_saves_the_running_iteration_and_the_run_goes_on_from_there(config, programs, whole, tmp_path):
    rarely = dataclasses.replace(config, out=tmp_path, checkpoint_interval=1e9)
    calls = iter(range(100))

    def iterate(state):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # another thread takes note of it
        return programs.iterate(state)

    said = []
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Stopped) as stopped:
        loop.train(rarely, programs=dataclasses.replace(programs, iterate=iterate), say=said.append)
    assert stopped.value.exit_status == 143 and said[-1].startswith(
        "stopped and saved; continue with dipod language --resume --out"
    )
    assert latest_checkpoint(tmp_path / "checkpoints").name.endswith("3")
    assert "continuing after iteration 3" in go_on(config, programs, tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_finished_run_can_be_made_longer_and_keeps_its_shorter_result(config, programs, whole, tmp_path, damaged):
    shorter = override(config, {"learning.num_iterations": 4})
    loop.train(dataclasses.replace(shorter, out=tmp_path), programs=programs, say=lambda line: None)
    before, kept = (tmp_path / "result.json").read_text(), "result-512.json"
    assert json.loads(before)["samples"] == 512
    if damaged:
        before, kept = before[:100], "result-damaged-1.json"
        (tmp_path / "result.json").write_text(before)
    said = go_on(config, programs, tmp_path)
    assert (tmp_path / kept).read_text() == before
    assert sum("result.json is damaged" in line and kept in line for line in said) == damaged
    assert_same_run(tmp_path, whole)


def test_resuming_a_finished_run_changes_nothing_but_its_pictures(config, programs, tmp_path):
    loop.train(dataclasses.replace(config, out=tmp_path), programs=programs, say=lambda line: None)
    kept = {name: (tmp_path / name).read_bytes() for name in ("result.json", "metrics.jsonl")}
    (tmp_path / "drift.png").unlink()
    go_on(config, programs, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert (tmp_path / "drift.png").exists()


def test_a_finished_run_that_is_resumed_for_a_test_file_gains_its_accuracy_and_keeps_the_rest(
    config, programs, whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "copy")
    before, test_file = RunFolder.open(whole).read_result(), tmp_path / "test.csv"
    test_file.write_text("Puzzle,Solution\n3102200002100320,3142243142131324\n")
    go_on(dataclasses.replace(config, test_file=test_file), programs, tmp_path / "copy")
    result = RunFolder.open(tmp_path / "copy").read_result()
    assert result.pop("test_file") == {"path": str(test_file), "num_problems": 1, "num_unseen": 1}
    added = [name for name in result["final"] if name.startswith("test_file/")]
    assert added and all(len(result["final"].pop(name)["per_seed"]) == 2 for name in added)
    assert without_seconds(result) == without_seconds(before)


def test_lost_records_are_named(config, programs, tmp_path):
    with pytest.raises(Killed):
        loop.train(dataclasses.replace(config, out=tmp_path), programs=killed_after(4, programs), say=lambda line: None)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not ('"train"' in line and '"iteration": 2' in line)))
    said = go_on(config, programs, tmp_path)
    assert any("lacks 1 train records of seed 0 (iterations 2), 1 train records of seed 1" in line for line in said)


def test_a_result_that_cannot_be_read_is_written_again(config, programs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy/result.json").write_text("{")
    go_on(config, programs, tmp_path / "copy")
    assert_same_run(tmp_path / "copy", whole)


def test_without_a_checkpoint_the_run_begins_again_and_keeps_its_older_result_and_records(
    config, programs, whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/checkpoints")
    said = go_on(config, programs, tmp_path / "copy")
    assert any("training starts again" in line for line in said)
    assert (tmp_path / "copy/result-640.json").exists() and (tmp_path / "copy/metrics-1.jsonl").exists()
    assert_same_run(tmp_path / "copy", whole)


@pytest.mark.slow
def test_an_unfinished_run_has_a_policy_from_its_newest_checkpoint(config, programs, tmp_path, capsys):
    with pytest.raises(Killed):
        loop.train(dataclasses.replace(config, out=tmp_path), programs=killed_after(2, programs), say=lambda line: None)
    evaluate.main([str(tmp_path), "--problems", "8", "--boards", "0"])
    assert 0.0 <= json.loads(capsys.readouterr().out)["greedy"] <= 1.0


@pytest.fixture
def begun(config, tmp_path):
    RunFolder.create(tmp_path / "run", to_json(config)).close()
    return tmp_path / "run"


def test_the_command_takes_its_options_from_the_folder(begun, config):
    found = language.parse(["--resume", "--out", str(begun), "--learning.num-iterations", "9"])
    assert found.resume and found.out == begun and found.learning.num_iterations == 9
    assert found.network == config.network and found.problems == config.problems and found.beta == "auto"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--resume"], ["--resume", "with --out"]),
        (["--objective", "d1"], ["--objective d1", "fpo"]),
        (["--task", "countdown"], ["--task countdown", "sudoku"]),
        (["--beta", "0.5"], ["--beta 0.5", "started with auto"]),
        (["--network.width", "32"], ["--network.width 32", "started with 16"]),
    ],
)
def test_another_option_than_the_runs_is_refused(begun, options, words, capsys):
    out = [] if options == ["--resume"] else ["--resume", "--out", str(begun)]
    with pytest.raises(SystemExit) as ended:
        language.main([*options, *out])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words) and line.count("\n") == 1


def test_a_control_run_and_a_language_run_are_not_taken_for_each_other(begun, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--resume", "--out", str(begun)])
    assert "it is a language run" in capsys.readouterr().err
    RunFolder.create(
        tmp_path / "control", control_json(make_control_config("smoke", "BallInCup", "fpo", "native")[0])
    ).close()
    with pytest.raises(SystemExit):
        language.main(["--resume", "--out", str(tmp_path / "control")])
    assert "it is no language run" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_kills_and_signals_at_random_instants_end_in_the_same_bits(tmp_path):
    options = "--problems.blanks 3 --pretraining.steps 20 --learning.num-iterations 40 --learning.num-prompts 2 "
    options += f"--measure.drift-interval 10 --network.width 16 --checkpoint-interval 0 --cache {tmp_path / 'cache'}"
    command = [sys.executable, "-m", "dipod_jax", "language", *options.split(), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    killed, instants = tmp_path / "killed", random.Random(0)
    for _ in range(10):
        more = ["--resume"] if (killed / "config.json").exists() else []
        process = subprocess.Popen([*command, str(killed), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=instants.uniform(2.0, 14.0))
            assert process.returncode == 0, said.decode()
            break  # it was finished before its signal came
        process.send_signal(number := instants.choice((signal.SIGKILL, signal.SIGTERM)))
        said, _ = process.communicate(timeout=30)
        if process.returncode == 0 and (killed / "result.json").exists():
            break  # it was finished as its signal came
        ended = (143, -15) if number == signal.SIGTERM else (-9,)  # -15: before the command has begun to listen
        assert process.returncode in ended, said.decode()
    subprocess.run([*command, str(killed), "--resume"], check=True, capture_output=True)
    of = lambda path: (RunFolder.open(path).read_metrics(), load_run(path).params)
    (records, params), (records_, params_) = of(killed), of(tmp_path / "whole")
    assert [without_seconds(r) for r in records] == [without_seconds(r) for r in records_]
    jax.tree.map(np.testing.assert_array_equal, params, params_)
