"""A run that was killed or damaged is the run that was not, or says in which way it is another."""

import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from fake_run import FakePrograms, FakeSession, fake_config, run_session

from dipod_jax.runs import (
    CheckpointError,
    RunFolder,
    RunFolderError,
    find_checkpoint,
    latest_checkpoint,
    restore_checkpoint,
    saved_shapes,
)
from dipod_jax.training import loop

ITERATIONS = 10


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains into `tmp_path / "run"`, without pictures; returns the folder."""
    monkeypatch.setattr(loop, "write_artifacts", lambda *_: None)

    def train(**options):
        config = fake_config(tmp_path / "run", **options)
        loop.train(config, programs=FakePrograms(config.all_seeds))
        return RunFolder.open(tmp_path / "run")

    train.path = tmp_path / "run"
    return train


def records(folder):
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in folder.read_metrics()]


def weights(folder, seeds=(0,)):
    newest = latest_checkpoint(folder.checkpoints)
    assert newest is not None
    state = restore_checkpoint(newest, FakePrograms(seeds).abstract_state())
    return newest.name, np.asarray(state.learner.params["policy"]["w"]).tobytes()


def best(folder):
    path = find_checkpoint(folder.checkpoints, "best")
    assert path is not None
    shapes = saved_shapes(path)
    wanted = {
        "w": ".learner.params['policy']['w']",
        "noise": ".actor.base_noise",
        "score": ".score",
        "at": ".iteration",
    }
    assert set(wanted.values()) <= set(shapes) and not any("critic" in name or "env" in name for name in shapes)
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arrays = checkpointer.restore(path / "arrays")
    return {short: np.asarray(arrays[f"{list(shapes).index(name):06d}"]) for short, name in wanted.items()}


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_best_policy_of_each_seed_is_kept_whatever_came_after_it(run, interrupted):
    seeds = (4, 2)
    if interrupted:
        run(seed_list=seeds, total_steps=16 * 7)
    folder = run(seed_list=seeds, resume=interrupted)
    evaluations = [r for r in folder.read_metrics() if r["kind"] == "evaluation"]
    kept, programs = best(folder), FakePrograms(seeds)
    assert kept["noise"].shape == (2, 1, 1)
    for index, seed in enumerate(seeds):
        highest = max((r for r in evaluations if r["seed"] == seed), key=lambda r: r["return_mean"])
        np.testing.assert_allclose(kept["score"][index], highest["return_mean"], rtol=1e-6)
        assert kept["at"][index] == highest["iteration"]
    state, wanted = programs.init(), {}
    for iteration in range(11):
        for index in range(2):
            if iteration == kept["at"][index]:
                wanted[index] = state.learner.params["policy"]["w"][index]
        state = state._replace(learner=programs.learn(state.learner, None)[0])
    np.testing.assert_array_equal(kept["w"], np.stack([wanted[0], wanted[1]]))
    assert len(set(kept["at"].tolist())) == 2  # the seeds' best are of different iterations here


def test_a_best_policy_that_cannot_be_read_is_sought_anew_and_that_is_said(run, capsys):
    folder = run(total_steps=16 * 7)
    (path,) = (folder.checkpoints / "best").iterdir()
    (path / "leaves.json").unlink()
    run(resume=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1 and "sought anew" in lines[0] and best(folder)["at"] == [ITERATIONS]


def test_as_many_of_the_newest_are_kept_as_asked(run):
    folder = run(keep_checkpoints=4)
    assert sorted(p.name[-2:] for p in folder.checkpoints.glob("step_*")) == ["07", "08", "09", "10"]
    with pytest.raises(ValueError, match="--which newest is not allowed: latest or best"):
        find_checkpoint(folder.checkpoints, "newest")


def test_a_damaged_newest_checkpoint_is_said_and_the_run_ends_in_the_same_bits(run, capsys):
    folder = run()
    whole = records(folder), weights(folder)
    (folder.path / "result.json").unlink()
    (folder.checkpoints / f"step_{ITERATIONS:012d}" / "leaves.json").unlink()
    with pytest.raises(CheckpointError, match="--strict-resume"):
        run(resume=True, strict_resume=True)
    capsys.readouterr()
    run(resume=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert f"from iteration {ITERATIONS} to iteration {ITERATIONS - 1}" in line and "leaves.json is missing" in line
    assert (records(folder), weights(folder)) == whole


def test_a_foreign_file_in_the_newest_checkpoint_changes_nothing(run, capsys):
    folder = run(total_steps=16 * 4)
    (folder.checkpoints / "step_000000000004" / ".DS_Store").touch()
    run(resume=True, strict_resume=True)
    assert "warning" not in capsys.readouterr().out
    train = [r["iteration"] for r in folder.read_metrics() if r["kind"] == "train"]
    assert train == list(range(1, ITERATIONS + 1))


@pytest.mark.slow
def test_a_copy_taken_while_the_run_goes_on_is_resumed_and_ends_in_the_same_bits(run, tmp_path):
    run.path.mkdir()
    session = FakeSession(run.path, act=0.05)
    copies = [tmp_path / f"copy{i}" for i in range(3)]
    for copy in copies:
        while session.poll() is None and not list((run.path / "checkpoints").glob("step_*")):
            time.sleep(0.01)
        time.sleep(0.07)
        subprocess.run(["cp", "-r", run.path, copy])  # what vanishes meanwhile, it complains of
    assert session.wait() == 0
    whole = RunFolder.open(run.path)
    for copy in copies:
        config = fake_config(copy, resume=True)
        loop.train(config, programs=FakePrograms(config.all_seeds))
        copied = RunFolder.open(copy)
        assert (records(copied), weights(copied)) == (records(whole), weights(whole))


def test_holes_in_the_records_are_named_and_refused_where_that_is_asked(run, capsys):
    folder = run(total_steps=16 * 8, seed_list=(4, 2))
    metrics = folder.path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[: metrics.stat().st_size // 3])
    with pytest.raises(RunFolderError, match=r"lacks .* --strict-resume does not go on"):
        run(resume=True, seed_list=(4, 2), strict_resume=True)
    capsys.readouterr()
    run(resume=True, seed_list=(4, 2))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    for seed in (4, 2):
        kept = {r["iteration"] for r in records(folder) if (r["kind"], r["seed"]) == ("train", seed)}
        lost = sorted(set(range(1, ITERATIONS + 1)) - kept)
        assert f"{len(lost)} train records of seed {seed} (iterations {lost[0]} to {lost[-1]})" in line
        assert f"1 evaluation records of seed {seed} (iterations 5)" in line
    assert folder.read_result()["missing_records"] in line


def test_a_finished_run_whose_result_is_damaged_can_be_made_longer(run, capsys):
    shorter = run(total_steps=16 * 5)
    (shorter.path / "result.json").write_text('{"env_')
    longer = run(resume=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "result.json is damaged" in line and "set aside as result-damaged-1.json" in line
    assert longer.read_result()["env_steps"] == 16 * ITERATIONS
    assert (longer.path / "result-damaged-1.json").read_text() == '{"env_'


def test_a_finished_run_that_was_moved_goes_on_where_it_is_and_writes_nothing_where_it_was(run):
    left = lambda folder: (
        [r for r in records(folder) if r["kind"] == "train"],
        weights(folder),
        folder.read_result()["final_return"],
    )
    whole = left(run())
    shutil.rmtree(run.path)
    moved = run(total_steps=16 * 5).path.rename(run.path.with_name("-moved <b> é"))
    config = fake_config(moved, resume=True)
    loop.train(config, programs=FakePrograms(config.all_seeds))
    assert left(RunFolder.open(moved)) == whole and not run.path.exists()


def test_a_run_without_holes_says_so(run):
    assert run().read_result()["missing_records"] is None


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["evaluation", "final evaluation"])
def test_an_evaluation_that_a_stop_cut_off_is_made_up_for(run, monkeypatch, killed_in):
    whole = records(run())
    shutil.rmtree(run.path)
    evaluate, at = loop.Run.evaluate, {"evaluation": 5, "final evaluation": ITERATIONS}[killed_in]

    def stopped(self, num_episodes, **options):
        if self.iteration == at:
            self.leave_saved()
            raise KeyboardInterrupt
        evaluate(self, num_episodes, **options)

    monkeypatch.setattr(loop.Run, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(loop.Run, "evaluate", evaluate)
    assert records(run(resume=True)) == whole


@pytest.mark.parametrize(
    "loss", ["removed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("renamed", "emptied"))]
)
def test_the_loss_of_the_folder_ends_the_run_in_one_line(tmp_path, loss):
    out = tmp_path / "run"
    process = FakeSession(out, act=0.05, total_steps=10**6)
    while not list(out.glob("checkpoints/step_*")):
        assert process.poll() is None
        time.sleep(0.01)
    if loss == "renamed":
        out.rename(tmp_path / "elsewhere")
    else:
        entries = [out] if loss == "removed" else list(out.glob("[!.]*"))
        while any(entry.exists() for entry in entries):
            for entry in entries:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    printed, err = process.communicate(timeout=60)
    # Where it happens in the middle of a save, threads of the storage library may print tracebacks of theirs, mixed.
    theirs = r"\s*(Traceback |File |self\._check_closed|raise RuntimeError|RuntimeError: Event loop is closed)"
    lines = [line for line in err.splitlines() if not re.match(theirs, line)]
    assert process.returncode == 74 and len(lines) == 1 and f"{out} was removed or renamed" in lines[0], err
    assert "everything is in" not in printed
    # What was being saved meanwhile may have brought its own folder back, and nothing else.
    assert loss == "emptied" or {entry.name for entry in out.glob("*")} <= {"checkpoints"}


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_instants_change_no_bit_of_the_run(tmp_path, count):
    """Each session is killed while it works; the last one ends by itself."""
    options = {"act": 0.01, "total_steps": 16 * 5 * count, "seed_list": (4, 2)}
    whole = run_session(tmp_path / "whole", checkpoint_interval=60.0, **options)
    assert whole.returncode == 0, whole.stderr
    out, rng = tmp_path / "killed", np.random.default_rng(count)
    for kill in range(count):
        resume = {"resume": True} if out.exists() and (out / "config.json").exists() else {}
        process = FakeSession(out, **options, **resume)
        goal = 4 * (kill + 1)
        while process.poll() is None and not list(out.glob(f"checkpoints/step_*{goal:03d}")):
            time.sleep(0.003)
        time.sleep(rng.uniform(0.0, 0.15))
        process.kill()
        process.communicate()
    done = run_session(out, resume=True, **options)
    assert done.returncode == 0 and "lacks" not in done.stdout, done.stderr
    assert records(RunFolder.open(out)) == records(RunFolder.open(tmp_path / "whole"))
    assert weights(RunFolder.open(out), (4, 2)) == weights(RunFolder.open(tmp_path / "whole"), (4, 2))
