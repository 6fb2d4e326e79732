"""A whole run from the command line: folder, kill -9 and --resume, load_policy, evaluate. One small run, shared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax import load_policy
from dipod_jax.commands import evaluate
from dipod_jax.runs import CheckpointError, RunFolder, latest_checkpoint
from dipod_jax.serialisation import from_json
from dipod_jax.training import setup
from dipod_jax.training.loading import restore_policy

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 6
# Everything a run has, as small as it gets: 2 seeds, an evaluation in the middle, the drift meter once.
OPTIONS = (
    *("--task", "PendulumSwingup", "--preset", "smoke", "--backend", "native", "--logger", "none", "--beta", "0.01"),
    *("--seed-list", "4", "2", "--total-steps", str(64 * ITERATIONS), "--checkpoint-interval", "0"),
    *("--rollout.num-envs", "8", "--rollout.num-steps", "8", "--rollout.episode-length", "12"),
    *("--policy.hidden-sizes", "8", "--policy.num-steps", "3", "--policy.num-draws", "2", "--critic.hidden-sizes", "8"),
    *("--learning.minibatch-size", "32", "--learning.num-epochs", "2", "--drift.interval", "0"),
    *("--evaluation.num-episodes", "4", "--evaluation.num-episodes-during", "2", "--evaluation.interval", "192"),
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def start(arguments, workplace):
    """The training command in a process of its own, without pictures; this file's processes share a compile cache."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MUJOCO_GL": "disable",
        "JAX_COMPILATION_CACHE_DIR": str(workplace / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "experiments.train", *arguments]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=workplace, env=environment, **pipes)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def finished(workplace):
    """(folder, stdout, stderr) of a run that nothing interrupted."""
    out, err = finish(start([*OPTIONS, "--out", "whole"], workplace))
    return workplace / "whole", out, err


@pytest.fixture(scope="module")
def resumed(workplace, finished):
    """The same run, killed with SIGKILL after its third iteration, and continued. Records the iteration it died in."""
    path = workplace / "killed"
    process = start([*OPTIONS, "--out", "killed"], workplace)
    metrics = path / "metrics.jsonl"
    try:
        while process.poll() is None and not (metrics.exists() and '"iteration": 3' in metrics.read_text()):
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (path / "result.json").exists()
    finish(start(["--resume", "--out", "killed"], workplace))
    return path


def records(path, kind=None):
    """Metrics without the clocks."""
    everything = [r for r in RunFolder.open(path).read_metrics() if kind in (None, r["kind"])]
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in everything]


def test_a_run_leaves_what_the_readme_promises(finished):
    path, out, err = finished
    assert str(path.name) in (out + err).splitlines()[-1] or "everything is in" in out + err
    names = {p.name for p in path.iterdir()}
    assert {"config.json", "metrics.jsonl", "result.json", "returns.png", "report.html", "checkpoints"} <= names
    result = RunFolder.open(path).read_result()
    wanted = ("task", "objective", "beta", "preset", "backend", "seeds", "env_steps", "wall_clock_s", "setup_s")
    assert set(wanted) | {"compile_s", "env_steps_per_s", "final_return_zero_noise"} <= set(result)
    assert (result["task"], result["objective"], result["beta"]) == ("PendulumSwingup", "fpo", 0.01)
    assert (result["seeds"], result["env_steps"]) == ([4, 2], 64 * ITERATIONS)
    assert set(result["final_return"]) >= {"mean", "ci95", "per_seed"} and len(result["final_return"]["per_seed"]) == 2
    assert set(result["seconds_to"]) == {"500", "700", "900"}


def test_where_no_picture_can_be_drawn_one_warning_says_so_and_the_run_goes_on(finished):
    path, out, err = finished
    assert (out + err).count("warning: no film") == 1 and not list(path.glob("*.mp4"))


def test_metrics_have_a_line_per_iteration_and_evaluation_and_seed(finished):
    train = [(r["iteration"], r["seed"]) for r in records(finished[0], "train")]
    assert train == [(i, seed) for i in range(1, ITERATIONS + 1) for seed in (4, 2)]
    evaluations = [(r["iteration"], r["seed"], r["num_episodes"]) for r in records(finished[0], "evaluation")]
    # before the first update, at 192 env steps (the third iteration), after the last
    assert evaluations == [(i, seed, n) for i, n in ((0, 2), (3, 2), (6, 4)) for seed in (4, 2)]
    assert all(r["env_steps"] == 64 * r["iteration"] for r in records(finished[0]))


def test_every_iterations_first_ratio_is_one_on_real_physics_too(finished):
    assert max(r["first_ratio_error"] for r in records(finished[0], "train")) < 1e-5


def test_the_result_repeats_the_last_evaluation(finished):
    result = RunFolder.open(finished[0]).read_result()
    last = [r["return_mean"] for r in records(finished[0], "evaluation") if r["iteration"] == ITERATIONS]
    assert_allclose(result["final_return"]["per_seed"], last, rtol=1e-6)
    assert_allclose(result["final_return"]["mean"], np.mean(last), rtol=1e-6)


@pytest.mark.slow
def test_a_killed_and_resumed_run_writes_the_numbers_of_one_never_interrupted(finished, resumed):
    assert records(resumed) == records(finished[0])


@pytest.mark.slow
def test_a_resumed_runs_seconds_are_those_of_all_its_sessions(resumed):
    result, metrics = RunFolder.open(resumed).read_result(), RunFolder.open(resumed).read_metrics()
    for kind, records in (("training", "train"), ("evaluation", "evaluation")):
        seconds = [r[f"{kind}_s"] for r in metrics if r["kind"] == records and r["seed"] == 4]
        assert_allclose(result[f"{kind}_s"], sum(seconds), rtol=1e-6)
    assert_allclose(result["env_steps_per_s"], 2 * 64 * ITERATIONS / result["training_s"], rtol=1e-6)
    assert result["wall_clock_s"] > result["training_s"] + result["evaluation_s"]


def checkpoint_leaves(path):
    """Every array of the newest checkpoint, by name, as bytes."""
    import orbax.checkpoint as ocp

    checkpoint = latest_checkpoint(path / "checkpoints")
    names = [(leaf["name"], leaf["shape"]) for leaf in json.loads((checkpoint / "leaves.json").read_text())]
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arrays = checkpointer.restore(checkpoint / "arrays")
    raw = lambda x: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
    return checkpoint.name, {names[int(i)][0]: raw(x) for i, x in arrays.items()}


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_in_the_same_bits(finished, resumed):
    name, whole = checkpoint_leaves(finished[0])
    other_name, again = checkpoint_leaves(resumed)
    assert name == other_name == f"step_{ITERATIONS:012d}" and whole.keys() == again.keys()
    for leaf in whole:
        assert whole[leaf].tobytes() == again[leaf].tobytes(), leaf
    for part in ("params", "optimizer", "obs_statistics", "env", "base_noise", "key", "iteration", "tunables"):
        assert any(part in leaf for leaf in whole)


@pytest.mark.slow
def test_two_processes_one_with_a_cold_and_one_with_a_warm_cache_end_in_the_same_bits(workplace, finished):
    finish(start([*OPTIONS, "--out", "warm"], workplace))  # the run of `finished` compiled everything anew
    assert records(workplace / "warm") == records(finished[0])
    _, cold = checkpoint_leaves(finished[0])
    _, warm = checkpoint_leaves(workplace / "warm")
    assert {name: x.tobytes() for name, x in warm.items()} == {name: x.tobytes() for name, x in cold.items()}


def test_a_loaded_policy_acts_as_the_trainer_did(finished):
    path = finished[0]
    obs = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), jnp.float32)
    key = jax.random.key(1)
    _, leaves = checkpoint_leaves(path)
    for index, seed in enumerate((4, 2)):
        action = load_policy(path, seed)(obs, key)
        assert action.shape == (5, 1) and (np.abs(action) < 1).all()
        trained = restore_policy(path, seed)
        mean, squares = (leaves[f".learner.obs_statistics.{n}"][index] for n in ("mean", "sum_of_squares"))
        std = np.sqrt(squares / leaves[".learner.obs_statistics.count"][index])
        kernels = [v for k, v in leaves.items() if "params['policy']" in k and "input_kernel" in k]
        assert_array_equal(trained.params["params"]["input_kernel"], kernels[0][index])
        noise = jax.random.normal(key, (5, 1))
        expected = np.tanh(trained.policy.sample(trained.params, (obs - mean) / std, noise)[0])
        assert_allclose(action, expected, atol=1e-5)
    assert_array_equal(load_policy(path)(obs, key), load_policy(path, 4)(obs, key))  # the first of the run's seeds
    single = load_policy(path)(obs[0], key)
    assert single.shape == (1,)


def test_a_policy_of_a_seed_or_a_folder_that_is_not_there_is_refused(finished, workplace):
    with pytest.raises(ValueError, match=r"--seed 0 is not allowed.*4, 2"):
        load_policy(finished[0], 0)
    empty = RunFolder.create(workplace / "empty", RunFolder.open(finished[0]).config)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_policy(empty.path)


def test_the_config_in_the_folder_is_the_one_that_was_asked_for(finished):
    config = from_json(RunFolder.open(finished[0]).config)
    assert (config.task, config.all_seeds, config.num_iterations) == ("PendulumSwingup", (4, 2), ITERATIONS)
    assert (config.preset, config.backend, config.beta) == ("smoke", "native", 0.01)
    assert config.policy.hidden_sizes == (8,) and config.learning.num_epochs == 2


def test_evaluate_prints_and_writes_the_return_of_a_saved_policy(finished, capsys, monkeypatch):
    monkeypatch.setattr(setup, "prepare_jax", lambda config: None)  # this process has its devices
    evaluate.main([str(finished[0]), "--episodes", "2", "--seed", "2", "--no-video", "--backend", "native"])
    written = json.loads((finished[0] / "evaluation.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert (written["task"], written["seed"], written["episodes"]) == ("PendulumSwingup", 2, 2)
    assert 0.0 <= written["return"]["mean"] <= 1000.0 and len(written["return"]["ci95"]) == 2
    assert written["return"]["ci95_over"] == "episodes"
