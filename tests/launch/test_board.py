"""What is shown while units train: a table on a terminal, lines elsewhere, and the time that is left."""

import io

import pytest
from fake_sweep import fake_units

from dipod_jax.launch import board as board_module
from dipod_jax.launch.base import Job
from dipod_jax.launch.board import Board
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json
from dipod_jax.studies.sweep.states import record_failure, take


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def job(tmp_path):
    """A sweep of four units of 160 env steps: one done, one taken and at 80, one failed twice, one waiting."""
    units = fake_units(tmp_path / "s", betas=(0.0, 0.1, 0.2, 0.3))
    done = RunFolder.create(units[0].folder, to_json(units[0].config))
    done.write_result({"env_steps": 160})
    done.close()
    lock = take(units[1])
    going = RunFolder.create(units[1].folder, to_json(units[1].config))
    head = {"seed": 0, "iteration": 5, "env_steps": 80, "wall_clock_s": 1.0}
    going.append_metrics({"kind": "evaluation", **head, "return_mean": 42.0, "zero_noise_return_mean": 0.0})
    for _ in range(2):
        record_failure(units[2], "a", "it broke")
    yield Job(tmp_path / "s", tuple(units), "a")
    going.close()
    assert lock is not None
    lock.release()


def test_states_are_counted_and_failures_named(job):
    stream = io.StringIO()
    with Board(job, stream) as board:
        board.look()
        assert [unit.config.beta for unit in board.running] == [0.1] and (board.num_waiting, board.num_left) == (1, 2)
        assert board.summary() == "4 units: 1 done, 1 running, 1 waiting, 1 failed"
    assert f"{job.units[2].name}: failed: it broke\n" in stream.getvalue()


def test_the_time_left_is_that_of_what_is_not_given_up_at_the_speed_so_far(job, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: now[0])
    with Board(job, io.StringIO()) as board:
        board.look()
        now[0] += 10.0
        records = RunFolder.open(job.units[1].folder)
        head = {"seed": 0, "iteration": 7, "env_steps": 120, "wall_clock_s": 1.0}
        records.append_metrics({"kind": "train", **head})
        records.close()
        board.look()
        # 40 env steps in 10 s; left are 40 of the one that runs and 160 of the one that waits
        assert board.summary().endswith("ETA 50s")


def test_on_a_terminal_the_running_units_are_a_table_that_leaves_one_line(job, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Tty()
    with Board(job, stream) as board:
        board.look()
    shown = stream.getvalue()
    assert job.units[1].name in shown and "50 %" in shown and "42" in shown
    assert shown.rstrip().endswith("4 units: 1 done, 1 running, 1 waiting, 1 failed")
