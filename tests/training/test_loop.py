"""The loop: what is due when, kills, resumes, results."""

import json
import re
import shutil
import signal
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small import BASE

from dipod_jax.config import DistillationConfig
from dipod_jax.runs import CheckpointError, RunFolder
from dipod_jax.runs.signals import StopRequest
from dipod_jax.serialisation import to_json
from dipod_jax.training import loop
from dipod_jax.training.loop import Run


@pytest.mark.slow
def test_a_policy_is_distilled_before_it_learns_from_the_actions_and_statistics_it_acted_with(
    fpo, tmp_path, monkeypatch
):
    config = replace(BASE, out=tmp_path / "run", logger="none", distillation=DistillationConfig(interval=2))
    seen = []

    def keep(learner, transitions):
        on_policy, _ = fpo.policy.sample(
            jax.tree.map(lambda x: x[0], learner.params["policy"]),
            jax.tree.map(lambda x: x[0], learner.obs_statistics).normalise(transitions.obs[0]),
            transitions.trace[0],
        )
        seen.append((int(learner.iteration[0]), np.asarray(on_policy), np.asarray(transitions.action[0])))
        return learner

    stop = StopRequest()
    run = Run(config, 0.0, stop=stop)
    run.programs, run.state = replace(fpo, distil=keep), fpo.init()
    for iteration in range(4):
        run.iteration = iteration
        run._advance()
    assert [at for at, _, _ in seen] == [1, 3]  # the learner's own count, one behind had it learned before
    for _, on_policy, stored in seen:
        assert_allclose(np.clip(on_policy, -1.5, 1.5), stored, atol=1e-5)


def test_phases_of_initial_distillation_draw_different_noise(fpo, tmp_path, monkeypatch):
    config = replace(BASE, out=tmp_path / "run", logger="none", distillation=DistillationConfig(initial_iterations=2))
    noise, learners = [], []

    def keep(learner, transitions):
        noise.append(np.asarray(transitions.trace))
        learners.append(np.asarray(jax.random.key_data(learner.key)))
        return learner

    stop = StopRequest()
    run = Run(config, 0.0, stop=stop)
    run.programs, run.state = replace(fpo, distil=keep), fpo.init()
    key = np.asarray(jax.random.key_data(run.state.learner.key))
    run._distil_initially()
    noise.append(np.asarray(fpo.act(run.state.learner, run.state.actor)[1].trace))  # the first iteration
    assert len(np.unique(noise)) == np.size(noise) == 3 * 8 * 64
    assert not np.array_equal(*learners)
    assert_array_equal(jax.random.key_data(run.state.learner.key), key)
    stop.receive(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run._distil_initially()  # and closes the run
    assert len(learners) == 2  # none after the stop


@pytest.fixture
def train_again(fpo, tmp_path, monkeypatch):
    """`train` on the shared programs, with pictures left out; returns the records it leaves, without the clock."""
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)
    size = BASE.steps_per_iteration
    config = replace(BASE, out=tmp_path / "run", logger="none", total_steps=3 * size, checkpoint_interval=0.0)

    def run(**options):
        loop.train(replace(config, **options), programs=fpo)
        return [{k: v for k, v in r.items() if k[-2:] != "_s"} for r in RunFolder.open(config.out).read_metrics()]

    return config, run


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again_without_double_lines(train_again):
    config, run = train_again
    folder = RunFolder.create(config.out, to_json(config))
    head = {"kind": "evaluation", "seed": 0, "iteration": 0, "env_steps": 0, "wall_clock_s": 1.0}
    folder.append_metrics({**head, "return_mean": 1.0})
    folder.close()
    records = run(resume=True)
    lines = [(r["kind"], r["iteration"]) for r in records]
    assert lines == [("evaluation", 0), ("train", 1), ("train", 2), ("train", 3), ("evaluation", 3)]
    assert json.loads((config.out / "metrics-1.jsonl").read_text())["return_mean"] == 1.0  # what it had is kept


def test_a_finished_run_whose_checkpoint_is_unreadable_loses_nothing_to_resume(train_again):
    config, run = train_again
    run()
    files = {path: path.read_bytes() for path in config.out.glob("*.json*")}
    for checkpoint in (config.out / "checkpoints").iterdir():
        (checkpoint / "leaves.json").write_text("")
    with pytest.raises(CheckpointError, match=r"leaves\.json is damaged .* delete that folder"):
        run(resume=True, total_steps=4 * config.steps_per_iteration)
    assert files == {path: path.read_bytes() for path in config.out.glob("*.json*")}


def test_the_end_says_where_the_time_went_and_what_was_drawn_after_the_result(train_again, monkeypatch, capsys):
    config, run = train_again
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: time.sleep(0.3))
    run()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "artifacts_s" in line]
    total, *parts = re.findall(r"(\w+) ([\d.]+)", line)
    result = RunFolder.open(config.out).read_result()
    for name, seconds in parts[:-1]:
        assert abs(float(seconds) - result[name]) <= 0.05
    assert [name for name, _ in parts] == ["setup_s", "compile_s", "training_s", "evaluation_s", "artifacts_s"]
    assert 0.3 <= float(parts[-1][1]) <= float(total[1]) - result["wall_clock_s"] + 0.1
    assert "artifacts_s" not in result


@pytest.mark.slow
def test_resuming_a_finished_run_keeps_its_result_or_writes_it_again_and_no_double_lines(train_again):
    config, run = train_again
    records, result = run(), RunFolder.open(config.out).read_result()
    assert run(resume=True) == records and RunFolder.open(config.out).read_result() == result
    (config.out / "result.json").unlink()
    assert run(resume=True) == records
    again = RunFolder.open(config.out).read_result()
    for name in ("final_return", "final_return_zero_noise", "env_steps", "evaluation_return"):
        assert again[name] == result[name]


@pytest.mark.slow
def test_a_resumed_run_may_go_further_than_it_was_meant_to(train_again):
    config, run = train_again
    size = config.steps_per_iteration
    long = run()
    shutil.rmtree(config.out)
    run(total_steps=2 * size)
    train = lambda records: [r for r in records if r["kind"] == "train"]
    assert train(run(total_steps=3 * size, resume=True)) == train(long)
    results = {json.loads(path.read_text())["env_steps"] for path in config.out.glob("result*.json")}
    assert results == {2 * size, 3 * size}  # that of the shorter run is kept under another name
    assert RunFolder.open(config.out).read_result()["env_steps"] == 3 * size


def test_nothing_is_compiled_after_the_second_iteration(fpo, tmp_path):
    evaluation = replace(BASE.evaluation, interval=2 * 512)
    config = replace(BASE, out=tmp_path / "run", logger="none", total_steps=9 * 512, evaluation=evaluation)
    run = Run(replace(config, checkpoint_interval=0.0), 0.0, fpo.compile())
    compiled = []
    count = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    run.start()
    for _ in range(2):  # the second is evaluated, and both are saved
        run.iterate()
    jax.monitoring.register_event_duration_secs_listener(count)
    for _ in range(3):
        run.iterate()
    seen = list(compiled)
    jax.jit(lambda x: x + 41.5)(1.0)
    run.close()
    assert seen == [] and len(compiled) > 0
