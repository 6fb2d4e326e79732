"""What a user imports from `dipod_jax`."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

import dipod_jax
from dipod_jax import api
from dipod_jax.config import Config
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json


def test_every_public_name_is_there_and_listed():
    assert set(dipod_jax.__all__) == {"envs", "evaluate", "load_policy", "make_config", "train"}
    assert all(callable(getattr(dipod_jax, name)) for name in dipod_jax.__all__ if name != "envs")
    assert callable(dipod_jax.envs.make) and set(dipod_jax.__all__) <= set(dir(dipod_jax))
    with pytest.raises(AttributeError, match="has no attribute 'sac'"):
        dipod_jax.sac  # noqa: B018


def test_importing_the_package_and_asking_for_envs_loads_no_jax():
    code = "import sys, dipod_jax; dipod_jax.envs.make; assert not {'jax', 'flax', 'mujoco'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_is_a_preset_with_the_options_given_over_it():
    config = dipod_jax.make_config(
        "FingerSpin", preset="cpu", backend="native", beta=0.02, out="runs/mine", learning={"num_epochs": 3}
    )
    plain = dipod_jax.make_config("FingerSpin", preset="cpu", backend="native")
    assert (config.beta, config.learning.num_epochs, config.out) == (0.02, 3, Path("runs/mine"))
    assert config.policy == plain.policy and config.learning.minibatch_size == plain.learning.minibatch_size
    assert (plain.preset, plain.backend, plain.out) == ("cpu", "native", None)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"task": "BallInCups"}, ValueError, "--task BallInCups is not allowed"),
        ({"objective": "sac"}, ValueError, "--objective sac is not allowed"),
        ({"beta": -1.0}, ValueError, "--beta -1.0 is not allowed"),
        ({"learning": {"num_epochs": 0}}, ValueError, "--learning.num-epochs 0 is not allowed"),
        ({"betta": 1.0}, TypeError, "betta"),
        ({"learning": {"epochs": 1}}, TypeError, "epochs"),
        ({"regularisers": {"entropy": {"weight": -1.0}}}, ValueError, "--regularisers.entropy.weight -1.0"),
    ],
)
def test_an_option_that_is_wrong_is_named(options, error, words):
    with pytest.raises(error, match=words):
        dipod_jax.make_config(**{"preset": "smoke", "backend": "native", **options})


def test_training_resolves_what_is_open_and_returns_the_run_folder(monkeypatch):
    trained: list[Config] = []
    monkeypatch.setattr("dipod_jax.training.setup.prepare_jax", lambda config: None)
    monkeypatch.setattr("dipod_jax.training.loop.train", lambda config, **_: trained.append(config))
    assert dipod_jax.train(dipod_jax.make_config("FishSwim", preset="smoke", out="here")) == Path("here")
    folder = dipod_jax.train(dipod_jax.make_config("FishSwim"))
    assert folder.parent == Path("runs/FishSwim/fpo-beta0.05") and trained[1].out == folder
    assert trained[1].preset == "cpu" and trained[1].backend == "native"


def test_a_config_that_comes_from_no_preset_is_not_given_the_name_of_one():
    with pytest.raises(ValueError, match="--preset auto is not allowed: the one it started from: take make_config"):
        dipod_jax.train(Config(task="FishSwim"))


def test_a_run_is_not_gone_on_with_under_other_options(tmp_path, monkeypatch):
    monkeypatch.setattr("dipod_jax.training.setup.prepare_jax", lambda config: None)
    monkeypatch.setattr("dipod_jax.training.loop.train", lambda config, **_: None)
    start = functools.partial(dipod_jax.make_config, preset="smoke", backend="native", out=tmp_path / "run")
    RunFolder.create(tmp_path / "run", to_json(start(beta=0.02))).close()
    assert dipod_jax.train(start(beta=0.02, resume=True, total_steps=10**5)) == tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"--beta 0\.05 is not allowed with --resume: the run in .* started with 0\.02"
    ):
        dipod_jax.train(start(resume=True))


def test_an_evaluation_of_no_episode_and_a_missing_device_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="--episodes 0 is not allowed: at least 1"):
        api.evaluate("nowhere", episodes=0)
    with pytest.raises(ValueError, match="--backend warp is not allowed"):
        api.evaluate("nowhere", backend="warp")
