"""The command line of dipod heldnoise: what it prints, and that it tells a swing-up from balancing."""

import os
import subprocess
import sys

import numpy as np
import pytest
from probe_tasks import CountingTask

from dipod_jax import envs
from dipod_jax.commands import heldnoise
from dipod_jax.studies.held_noise import first_and_later, row, untrained_rewards


def test_a_row_has_a_mean_and_its_error_for_each_time():
    rewards = np.array([[[0.5, 1.0], [9.0, 8.0]], [[0.5, 2.0], [1.0, 2.0]]])
    cells = row("Task", 0.02, [0.0, 0.5], rewards)
    returns = {"0 s": "2 +- 1", "0.5 s": "10 +- 0"}
    assert cells == {"task": "Task", "step": "0.02 s", **returns, "first": "0.5", "step 50": "1.4"}
    assert first_and_later(rewards, 0) == (0.5, 4.625)


def test_held_noise_swings_a_pole_up_and_lets_it_fall():
    up, balance = (
        untrained_rewards(envs.make(f"Cartpole{task}", "native", episode_length=300), [0.0, 0.09], 8).sum(0).mean(1)
        for task in ("Swingup", "Balance")
    )
    assert up[1] > 1.5 * up[0] and balance[0] > 1.1 * balance[1]


def test_the_command_prints_a_row_for_each_task(capsys):
    heldnoise.main(["--tasks", "CartpoleBalance", "--seconds", "0", "1", "--num-episodes", "2", "--num-steps", "3"])
    head, _, body = capsys.readouterr().out.strip().splitlines()[-3:]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["task", "step", "0 s", "1 s", "first", "step 50"]
    assert body.split("|")[1].strip() == "CartpoleBalance" and body.count("+-") == 2


@pytest.mark.slow
def test_the_command_needs_no_opengl():
    options = ["--tasks", "CartpoleBalance", "--seconds", "0", "--num-episodes", "2", "--num-steps", "3"]
    command = [sys.executable, "-m", "dipod_jax", "heldnoise", *options]
    subprocess.run(command, env={**os.environ, "MUJOCO_GL": "osmesa"}, check=True, capture_output=True)


def test_an_episode_earns_nothing_after_its_end():
    """Rewards add up to 10 at the end at most, and one action more; noise that is never forgotten gets there."""
    returns = untrained_rewards(envs.BatchedEnv(CountingTask(), 400), [1e6], 16).sum(0)
    assert 9 < returns.max() <= 11
