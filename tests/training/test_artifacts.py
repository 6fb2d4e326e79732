"""Whom a finished run films."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax import viz
from dipod_jax.presets import smoke
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json
from dipod_jax.training import artifacts
from dipod_jax.training.artifacts import best_and_worst, write_policy_videos
from dipod_jax.training.evaluation import Episode
from dipod_jax.training.state import LearnerState


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([5.0], [0]),
        ([5.0, 9.0, 1.0], [1, 2]),
        ([np.nan, 9.0, 1.0], [1, 0]),
        ([3.0, None], [0, 1]),
        ([-4.0, -np.inf, -2.0], [2, 1]),
        ([np.inf, 1.0], [0, 1]),
    ],
)
def test_the_best_and_the_worst_are_filmed_and_what_is_not_known_is_worst(returns, expected):
    assert best_and_worst(returns) == expected


def test_the_films_share_the_episodes_and_each_is_of_its_own_policy(tmp_path, monkeypatch):
    def record(env, policy, params, statistics, key, num_episodes):
        return Episode(params * jnp.ones((3, num_episodes)), key, key, reward=statistics)

    shown = {}
    monkeypatch.setattr(artifacts, "record", record)
    write = lambda model, qpos, reward, path, *, last_frame, **_: shown.update({path.name: (last_frame.name, qpos)})
    monkeypatch.setattr(viz, "write_video", write)
    env = SimpleNamespace(mj_model=SimpleNamespace(nmocap=0))
    takes = {tmp_path / "a.mp4": (1.0, 0.0, 0.0), tmp_path / "b.mp4": (2.0, 0.0, 0.0)}
    assert write_policy_videos(env, None, takes, print)
    shape = 3, artifacts.VIDEO_EPISODES // 2
    assert {name: (frame, qpos[0, 0], qpos.shape) for name, (frame, qpos) in shown.items()} == {
        "a.mp4": ("a.png", 1.0, shape),
        "b.mp4": ("b.png", 2.0, shape),
    }


@pytest.mark.parametrize("filmed", [True, False])
def test_each_film_is_of_the_seed_that_its_name_says_and_then_those_of_a_shorter_run_go(tmp_path, monkeypatch, filmed):
    config = replace(smoke("BallInCup", "fpo"), seed_list=(7, 8, 9), out=tmp_path / "run")
    folder = RunFolder.create(config.out, to_json(config))
    folder.write_result({"seeds": [7, 8, 9], "env_steps": 1})
    earlier = {"policy.mp4", "policy-seed7.mp4", "policy-seed7.png", "policy-seed8.mp4", "policy.onnx"}
    for name in earlier:
        (folder.path / name).write_bytes(b"of a shorter run")
    rows = jnp.arange(3.0)
    learner = SimpleNamespace(
        params={"policy": rows}, obs_statistics=10 * rows, key=jax.random.split(jax.random.key(0), 3)
    )
    learner = LearnerState(**{f: getattr(learner, f, rows) for f in LearnerState._fields})
    programs = SimpleNamespace(evaluation_env=SimpleNamespace(on_one_device=lambda: None), policy=None)
    takes = {}
    monkeypatch.setattr(artifacts, "write_policy_videos", lambda env, policy, new, say: takes.update(new) or filmed)
    monkeypatch.setattr(viz, "plot_returns", lambda *_, **__: None)
    artifacts.write_artifacts(config, folder, programs, learner, [5.0, 2.0, 9.0], [], None, pytest.fail)
    assert {path.name: (float(p), float(s)) for path, (p, s, _) in takes.items()} == {
        "policy-seed9.mp4": (2.0, 20.0),
        "policy-seed8.mp4": (1.0, 10.0),
    }
    left = {path.name for path in folder.path.glob("policy*")}
    assert left == ({"policy-seed8.mp4", "policy.onnx"} if filmed else earlier)
    folder.close()
