"""Whom a finished run films."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax import viz
from dipod_jax.training import artifacts
from dipod_jax.training.artifacts import best_and_worst, write_policy_videos
from dipod_jax.training.evaluation import Episode


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
    monkeypatch.setattr(viz, "write_video", lambda model, qpos, reward, path, **_: shown.update({path.name: qpos}))
    monkeypatch.setattr(viz, "write_frame", lambda model, qpos, reward, path, **_: shown.update({path.name: qpos}))
    env = SimpleNamespace(mj_model=SimpleNamespace(nmocap=0))
    takes = {tmp_path / "a.mp4": (1.0, 0.0, 0.0), tmp_path / "b.mp4": (2.0, 0.0, 0.0)}
    assert write_policy_videos(env, None, takes, print)
    assert {name: (qpos[0, 0], qpos.shape) for name, qpos in shown.items()} == {
        f"{name}.{suffix}": (value, (3, artifacts.VIDEO_EPISODES // 2))
        for name, value in (("a", 1.0), ("b", 2.0))
        for suffix in ("mp4", "png")
    }
