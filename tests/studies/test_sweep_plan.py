"""The plan of a sweep: what an id depends on, what the files say, who has which unit."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import TINY, assert_same_bits, probe_programs

from dipod_jax.options import override
from dipod_jax.presets import make_config
from dipod_jax.runs import RunFolder, RunFolderError, StorageError
from dipod_jax.serialisation import to_json
from dipod_jax.studies.sweep.plan import extend_plan, make_unit, planned_by, read_plan, unit_id
from dipod_jax.studies.sweep.rooms import program_key
from dipod_jax.studies.sweep.shards import Shard, parse_shard
from dipod_jax.studies.sweep.states import is_done, owner_of, position, record_failure, state_of, take
from dipod_jax.studies.sweep.trainer import Trainer, output_in, to_continue
from dipod_jax.training.state import Tunables

SMOKE, _ = make_config("smoke", "BallInCup", "fpo", "native")


def test_an_id_is_the_seeds_and_what_is_learned_and_nothing_else():
    same = {"out": SMOKE.default_out, "logger": "none", "checkpoint_interval": 1.0, "preset": "cpu", "seed_list": (0,)}
    assert unit_id(override(SMOKE, same)) == unit_id(SMOKE)
    others = {"seeds": 2, "beta": 0.5, "total_steps": 10**6, "task": "FingerSpin", "learning.discount": 0.9}
    ids = {unit_id(override(SMOKE, {name: value})) for name, value in others.items()}
    assert len(ids | {unit_id(SMOKE)}) == 1 + len(others) and all(len(found) == 10 for found in ids)


def test_a_plan_is_read_as_it_was_written_wherever_its_folder_lies(tmp_path):
    units = [make_unit(tmp_path / "s", SMOKE, {"learning.discount": "0.9"}, "--seeds 1")]
    assert extend_plan(tmp_path / "s", units) == units == read_plan(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "moved")
    assert read_plan(tmp_path / "moved")[0].folder.parent == tmp_path / "moved" / "units"


def test_units_keep_their_place_when_a_plan_grows(tmp_path):
    of_beta = lambda beta: make_unit(tmp_path, dataclasses.replace(SMOKE, beta=beta))
    extend_plan(tmp_path, [of_beta(0.5)], "dipod sweep --betas 0.5")
    planned = extend_plan(tmp_path, [of_beta(0.0), of_beta(0.5)], "dipod sweep --betas 0 0.5")
    assert [unit.config.beta for unit in planned] == [0.5, 0.0]
    extend_plan(tmp_path, [of_beta(0.5)], "dipod sweep --betas 0.5")
    assert planned_by(tmp_path) == ["dipod sweep --betas 0.5", "dipod sweep --betas 0 0.5"]
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"commands": 3}', '{"commands": [3]}', '{"betas": [0.1]}'])
def test_commands_that_were_not_noted_are_none(tmp_path, text):
    assert planned_by(tmp_path) == []
    (tmp_path / "study.json").write_text(text)
    assert planned_by(tmp_path) == []
    (tmp_path / "study.json").write_text('{"command": "dipod sweep --betas 0"}')  # as once
    assert planned_by(tmp_path) == ["dipod sweep --betas 0"]


def test_other_physics_in_one_plan_are_refused(tmp_path):
    extend_plan(tmp_path, [make_unit(tmp_path, SMOKE)])
    with pytest.raises(ValueError, match="--backend mjx is not allowed: native"):
        extend_plan(tmp_path, [make_unit(tmp_path, dataclasses.replace(SMOKE, backend="mjx"))])


@pytest.mark.parametrize("text", ["{", "[]", '{"units": [{}]}', '{"units": [{"name": "../x"}]}', '{"units": [3]}'])
def test_a_damaged_plan_is_one_line(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"plan.json is (not a sweep|damaged)"):
        read_plan(tmp_path)


@pytest.mark.parametrize("count", range(1, 8))
def test_shards_cover_a_plan_exactly_once_and_keep_what_they_have_when_it_grows(count):
    shards = [parse_shard(f"{index}/{count}") for index in range(count)]
    for length in (0, 1, 5, 12):
        assert sorted(unit for shard in shards for unit in shard.of(range(length))) == list(range(length))
    assert all(shard.of(range(20))[: len(shard.of(range(12)))] == shard.of(range(12)) for shard in shards)


def test_a_shard_without_a_value_is_that_of_the_array_or_the_indexed_job():
    array = {f"SLURM_ARRAY_TASK_{n}": v for n, v in {"ID": "7", "MIN": "3", "STEP": "2", "COUNT": "4"}.items()}
    assert parse_shard("", array) == Shard(2, 4)
    assert parse_shard("", {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "3"}) == Shard(1, 3)
    for bad in ({}, array | {"SLURM_ARRAY_TASK_ID": "8"}, {"JOB_COMPLETION_INDEX": "1"}, {"SLURM_ARRAY_TASK_ID": "x"}):
        with pytest.raises(ValueError, match=r"^--shard without a value is not allowed: i/n"):
            parse_shard("", bad)


@pytest.mark.parametrize("text", ["3/2", "2/2", "-1/2", "1", "a/b", "1/0", "0/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="i/n with 0 <= i < n"):
        parse_shard(text)


def test_a_unit_is_waiting_running_failed_after_two_tries_of_a_session_and_done_with_a_whole_result(tmp_path):
    unit = make_unit(tmp_path, SMOKE)
    assert state_of(unit, "a") == "waiting"
    lock = take(unit)
    assert lock is not None and state_of(unit, "a") == "running" and owner_of(unit) == os.getpid()
    lock.release()
    record_failure(unit, "a", "it broke")
    assert state_of(unit, "a") == "waiting"
    record_failure(unit, "a", "it broke")
    assert (state_of(unit, "a"), state_of(unit, "b")) == ("failed", "waiting")
    folder = RunFolder.create(unit.folder, to_json(unit.config))
    folder.write_result({"env_steps": unit.config.planned_steps - 1})
    assert not is_done(unit)
    folder.write_result({"env_steps": unit.config.planned_steps})
    assert state_of(unit, "a") == "done"
    drawing = take(unit)
    assert drawing is not None and state_of(unit, "a") == "running"
    drawing.release()
    (unit.folder / "result.json").write_text('{"env_steps": 81')
    assert not is_done(unit)


TAKER = """
import sys, time
from pathlib import Path
from dipod_jax.studies.sweep.plan import read_plan
from dipod_jax.studies.sweep.states import take
lock = take(read_plan(Path(sys.argv[1]))[0])
print(lock is not None, flush=True)
time.sleep(600)
"""


def test_two_workers_cannot_have_one_unit_and_a_dead_ones_is_taken_over(tmp_path):
    (unit,) = extend_plan(tmp_path, [make_unit(tmp_path, SMOKE)])
    with subprocess.Popen([sys.executable, "-c", TAKER, str(tmp_path)], stdout=-1, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "True\n"
        assert take(unit) is None and state_of(unit, "a") == "running" and owner_of(unit) == first.pid
        first.kill()
        first.wait()
        lock = take(unit)
        assert lock is not None and str(first.pid) in str(lock.taken_over_from)
        lock.release()


def test_a_unit_goes_on_only_where_it_has_trained(tmp_path):
    unit = make_unit(tmp_path, SMOKE)
    assert to_continue(unit) is unit.config
    folder = RunFolder.create(unit.folder, to_json(unit.config))
    folder.close()
    assert not to_continue(unit).resume
    record = {"kind": "train", "seed": 0, "iteration": 1, "env_steps": 1024, "wall_clock_s": 1.0}
    folder.append_metrics(record)
    folder.append_metrics(record | {"kind": "evaluation", "return_mean": 7.0})
    folder.close()
    assert to_continue(unit).resume and position(unit) == (1024, 7.0)


def test_units_that_differ_in_numbers_that_are_data_share_a_program_and_others_do_not():
    key = program_key(SMOKE)
    data = {"beta": "auto", "learning.learning_rate": 1e-4, "objective.clip_epsilon": 0.3, "total_steps": 10**6}
    data |= {"seed_list": (5,), "learning.final_learning_rate": None}
    for name, value in data.items():
        assert program_key(override(SMOKE, {name: value})) == key, name
    shape = {"seeds": 2, "learning.num_epochs": 3, "task": "FingerSpin", "drift.interval": 0, "learning.discount": 0.9}
    keys = {program_key(override(SMOKE, {name: value})) for name, value in shape.items()}
    assert len(keys | {key}) == 1 + len(shape)


@pytest.mark.slow
def test_units_that_differ_in_tunables_share_a_program_and_train_as_each_by_its_own(monkeypatch):
    made = []
    make = lambda config, seeds: made.append(config.beta) or probe_programs(config, seeds)
    monkeypatch.setattr("dipod_jax.training.programs.make_programs", make)
    other = {"beta": 0.1, "learning.learning_rate": 1e-3, "objective.clip_epsilon": 0.2, "seeds": 2}
    first = override(TINY, {"seeds": 2})
    second = dataclasses.replace(override(TINY, other), seed_list=(5, 6))
    trainer = Trainer()
    trainer._programs_of(first)
    shared, alone = trainer._programs_of(second), probe_programs(second, (5, 6))
    assert made == [0.0]
    begin = lambda programs: programs.with_tunables(programs.init(), Tunables.of(second))  # as training does
    states = [programs.iterate(begin(programs))[0] for programs in (shared, alone)]
    assert_same_bits(*(state.learner.params for state in states))
    trainer._programs_of(override(TINY, {"seeds": 2, "learning.num_epochs": 2}))
    assert made == [0.0, 0.0]


def test_what_went_wrong_is_told_though_its_traceback_finds_no_room():
    with pytest.raises(StorageError, match="no room"), output_in(Path("/dev/full")):
        print("a line")
        raise StorageError("no room")
