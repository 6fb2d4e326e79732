"""The benchmarks: what they count, what they compare with, what they print, and that each runs at its smallest size."""

import itertools
import json
import math
import os
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import mujoco
import numpy as np
import pytest

import benchmarks
from benchmarks import _report, _setup, _timing, end_to_end, gpu, language, memory, physics, scaling, startup, update
from benchmarks._command import run
from dipod_jax import envs
from dipod_jax.envs.tasks import TASKS

MODULES = {
    "physics": physics,
    "update": update,
    "end_to_end": end_to_end,
    "startup": startup,
    "gpu": gpu,
    "language": language,
    "scaling": scaling,
    "memory": memory,
}


def test_interleaving_takes_turns_in_alternating_order():
    calls = []
    variants = {name: (lambda name=name: calls.append(name), 1.0) for name in "ab"}
    samples = _timing.interleave(variants, repeats=3, warm_ups=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(own) for name, own in samples.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_within_each_turn():
    fast = [_timing.Sample(1.0, 1.0, 6.0), _timing.Sample(2.0, 1.0, 6.0)]
    slow = [_timing.Sample(2.0, 2.0, 6.0), _timing.Sample(8.0, 3.0, 6.0)]
    assert _timing.speed_ratio(fast, slow) == _timing.Spread(3.0, 2.0, 4.0)
    assert _timing.speed_ratio(fast, slow, of_cpu_time=True) == _timing.Spread(2.5, 2.0, 3.0)


def test_rows_compare_every_variant_with_the_baseline_by_rate():
    slow, fast = [_timing.Sample(2.0, 4.0, 6.0)], [_timing.Sample(1.0, 1.0, 6.0)]
    baseline, row = _report.compare("what", {"slow": slow, "fast": fast}, "slow", targets={"fast": 1.5})
    assert baseline.ratio is None and baseline.value == _timing.Spread(3.0, 3.0, 3.0)
    assert row.ratio == _timing.Spread(2.0, 2.0, 2.0) and row.cpu_time_ratio == 4.0 and row.met is True


def test_a_time_meets_its_target_from_below_and_a_ratio_from_above():
    one = _timing.Spread(1.0, 1.0, 1.0)
    assert _report.Row("a", "b", one, "s", target=2.0).met is True
    assert _report.Row("a", "b", one, "s", target=0.5).met is False
    assert _report.Row("a", "b", one, "x", ratio=one, target=2.0).met is False
    assert _report.Row("a", "b", one, "x").met is None


def test_the_compiler_counts_three_times_forwards_matrix_products_but_for_the_inputs_own_gradient():
    env = SimpleNamespace(observation_size=8, action_size=2)
    _, operations = update.critic_steps("cpu", "BallInCup", env, minibatch=16, steps=3)
    sizes = (8, 128, 128, 128, 1)
    forward = [2 * 16 * a * b for a, b in itertools.pairwise(sizes)]
    products = 3 * (3 * sum(forward) - forward[0])
    assert products < operations < 1.06 * products  # activations and biases are counted too


def test_raw_mujoco_is_stepped_as_by_hand():
    env = envs.make("FingerSpin", "native")
    data = jax.jit(lambda key: env.reset(key, 2))(jax.random.key(0)).physics.data
    actions = _setup.random_actions(jax.random.key(1), 3, 2, env.action_size)
    raw = _setup.RawRollout(env, data, actions)
    raw()
    for i in range(2):
        by_hand = mujoco.MjData(env.mj_model)
        by_hand.qpos[:], by_hand.qvel[:] = data.qpos[i], data.qvel[i]
        by_hand.qacc_warmstart[:] = data.qacc_warmstart[i]
        for action in np.asarray(actions[:, i]):
            by_hand.ctrl[:] = action
            mujoco.mj_step(env.mj_model, by_hand, nstep=_setup.substeps(env))
        np.testing.assert_array_equal(raw.last_qpos[i], by_hand.qpos)
    assert raw.work == 6


def test_the_seam_computes_what_raw_mujoco_does():
    env = envs.make("BallInCup", "native", mesh=_setup.data_mesh(4))
    data = _setup.warmed_up_state(env, 4).physics.data
    actions = _setup.random_actions(jax.random.key(1), 5, 4, env.action_size)
    raw = _setup.RawRollout(env, data, actions)
    raw()
    np.testing.assert_allclose(physics.seam_program(env)(data, actions).qpos, raw.last_qpos, atol=1e-5)


def test_a_variant_of_weak_scaling_gets_as_many_cores_as_devices_in_all_threads_and_gives_them_back():
    threads = lambda: [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    before, seen = os.sched_getaffinity(0), []
    scaling.on_cores(1, lambda: seen.extend(threads()))()
    assert len(seen) > 1 and seen == [{min(before)}] * len(seen)
    assert all(cores == before for cores in threads())


TINY = {
    "physics": ["--tasks", "BallInCup", "--num-envs", "4", "--steps-per-call", "8", "--mjx-num-envs", "0"],
    "update": ["--peak-sizes", "32", "--minibatch", "64", "--paper-minibatch", "0", "--gradient-steps", "2"]
    + ["--parts", "gradients"],
}
WHOLE = {
    "language": ["--parts", "network", "pretraining", "--batch", "4", "--pretraining-steps", "1"],
    "update": ["--parts", "update", "--preset", "smoke", "--objectives", "ppo"],
    "end_to_end": ["--preset", "smoke", "--parts", "loop", "acting", "evaluation", "meter", "seeds"]
    + ["--num-seeds", "1", "2"],
    "scaling": ["--preset", "smoke", "--num-envs", "16", "--environments", "16", "32"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_leaves_finite_ratios_and_the_machines_facts(name, tmp_path, capsys):
    check_benchmark(name, TINY[name], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_benchmark_of_whole_programs_leaves_finite_ratios(name, tmp_path, capsys):
    check_benchmark(name, WHOLE[name], tmp_path, capsys)


def options_class(module):
    return next(v for k, v in vars(module).items() if k.endswith("Options") and k != "Options")


def check_benchmark(name, arguments, tmp_path, capsys):
    module = MODULES[name]
    run(name, options_class(module), module.measure, [*arguments, "--repeats", "2", "--out", str(tmp_path)])
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"]["cpu_model"] and written["machine"]["versions"]["jax"]
    assert written["rows"]
    for row in written["rows"]:
        assert 0 < row["value"]["low"] <= row["value"]["median"] <= row["value"]["high"] < math.inf
        assert len(row["samples"]) == 2
        if row["ratio"] is not None:
            assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"] < math.inf
    assert any(row["ratio"] is not None for row in written["rows"])
    printed = capsys.readouterr().out
    assert all(row["variant"] in printed for row in written["rows"])


def test_draws_in_groups_take_less_memory_than_draws_at_once(tmp_path):
    run("memory", memory.MemoryOptions, memory.measure, ["--draws", "8", "32", "--rows", "64", "--out", str(tmp_path)])
    sizes = [row["value"]["median"] for row in json.loads((tmp_path / "memory.json").read_text())["rows"]]
    assert 0 < sizes[1] < sizes[0] and 3 * sizes[3] < sizes[2]
    assert sizes[2] > 3 * sizes[0] and sizes[3] < 1.5 * sizes[1]


def test_start_up_reads_the_clock_of_the_first_iteration_and_not_of_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert startup.clock(path) is None
    path.write_text('{"kind": "evaluation", "wall_clock_s": 3.0}\n{"kind": "train", "wall_cl')
    assert startup.clock(path) is None
    path.write_text(
        '{"kind": "evaluation", "wall_clock_s": 3.0}\n{"kind": "train", "wall_clock_s": 4.5}\n'
        '{"kind": "train", "wall_clock_s": 6.0}\n'
    )
    assert startup.clock(path) == {"evaluation": 3.0, "train": 4.5}


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("physics", ["--tasks", "Chess"], "--tasks"),
        ("physics", ["--repeats", "0"], "--repeats"),
        ("physics", ["--num-envs"], "--num-envs"),
        ("end_to_end", ["--parts", "everything"], "--parts"),
        ("end_to_end", ["--paper-num-steps", "31"], "--paper-num-steps"),
        ("update", ["--peak-sizes", "x"], "--peak-sizes"),
        ("update", ["--objectives", "sarsa"], "--objectives"),
        ("startup", ["--timeout", "nan"], "--timeout"),
        ("scaling", ["--environments", "65"], "--environments"),
        ("gpu", ["--num-envs", "33"], "--num-envs"),
        ("language", ["--task", "chess"], "--task"),
        ("language", ["--batch", "0"], "--batch"),
        ("memory", ["--draws", "8", "10"], "--draws 10"),
        ("memory", ["--group", "0"], "--group"),
        ("gpu", ["--backends", "native"], "--backends"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(name, arguments, named, capsys):
    module = MODULES[name]
    with pytest.raises(SystemExit) as stopped:
        run(name, options_class(module), module.measure, arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and named in captured.err


def test_the_tasks_with_a_target_exist():
    assert set(physics.TARGETS) <= set(physics.STEPS_PER_CALL) <= set(TASKS)


def test_make_bench_runs_every_benchmark():
    text = (Path(__file__).parents[2] / "Makefile").read_text()
    listed = re.search(r"^BENCHMARKS := (.*)$", text, re.MULTILINE)
    found = {m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")}
    assert found == set(MODULES)
    assert listed is not None and set(listed[1].split()) == found - {"gpu"}  # which has a target of its own
