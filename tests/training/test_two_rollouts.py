"""The run's own evaluation and a loop of a user's agree on one policy. Minutes, so `make test-all` only."""

import jax
import numpy as np
import pytest
from experiments.train import main

from dipod_jax import envs, load_policy
from dipod_jax.runs import RunFolder, latest_checkpoint, restore_checkpoint
from dipod_jax.serialisation import from_json
from dipod_jax.training.programs import make_programs
from dipod_jax.training.setup import available_cores

EPISODES = 1024


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory):
    """A run of BallInCup that ends where some episodes catch the ball and others do not."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")
        options = ["--preset", "cpu", "--backend", "native", "--seed-list", "9", "--total-steps", "150000"]
        main([*options, "--logger", "none", "--out", str(out)], task="BallInCup")
    return out


def by_the_run(path):
    """Returns (1024,) of the run's own evaluation."""
    folder = RunFolder.open(path)
    programs = make_programs(from_json(folder.config), (9,))
    newest = latest_checkpoint(folder.checkpoints)
    assert newest is not None
    state = restore_checkpoint(newest, programs.abstract_state())
    return programs.compile().evaluate(state.learner, EPISODES).random_noise[0]


def by_a_loop(path, key):
    """Returns (1024,) of what a user would write."""
    act = load_policy(path)
    env = envs.make("BallInCup", "native", num_threads=available_cores())
    step = jax.jit(env.step)
    reset_key, act_key = jax.random.split(key)
    state, total = env.reset(reset_key, EPISODES, num_starts=1), np.zeros(EPISODES)
    for time in range(1000):
        state, result = step(state, act(state.obs, jax.random.fold_in(act_key, time)))
        total += np.asarray(result.reward)
    assert np.asarray(result.truncated).all()
    return total


@pytest.mark.slow
def test_the_runs_evaluation_and_a_users_loop_give_one_return(half_trained):
    """Within 3 standard errors of their difference; an error of a few steps or of the noise's scale is larger."""
    ours, theirs = by_the_run(half_trained), by_a_loop(half_trained, jax.random.key(123))
    assert ours.shape == theirs.shape == (EPISODES,)
    assert 100 < ours.mean() < 900 and ours.std() > 50, "a policy that is half trained"
    error = np.sqrt(ours.var() / EPISODES + theirs.var() / EPISODES)
    print(f"{ours.mean():.1f} and {theirs.mean():.1f}, {error:.1f} the standard error of the difference")
    assert abs(ours.mean() - theirs.mean()) < 3 * error
