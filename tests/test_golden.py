"""Run folders of earlier versions act as they did, or say why they cannot go on."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dipod_jax import load_policy
from dipod_jax.commands.train import parse
from dipod_jax.regularisers.entropy import Entropy
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import from_json

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["fpo", "ppo"])
def folder(request, tmp_path):
    """A copy of a folder that version 1 wrote, with the action that version 1 made of it."""
    return shutil.copytree(GOLDEN / f"version1_{request.param}", tmp_path / request.param)


def test_a_policy_of_version_1_acts_as_version_1_did(folder):
    expected = json.loads((folder / "expected_action.json").read_text())
    action = load_policy(folder)(np.linspace(-1, 1, 3, dtype=np.float32), jax.random.key(5))
    np.testing.assert_allclose(action, expected, rtol=1e-5)


def test_a_loaded_policy_acts_the_same_where_the_caller_computes_in_double_precision(folder):
    obs, key = np.linspace(-1, 1, 3), jax.random.key(5)
    single = load_policy(folder)(obs, key)
    with jax.enable_x64(True):
        double = load_policy(folder)(obs, key)
        traced = jax.jit(load_policy(folder))(obs, key)
        assert np.zeros(1, np.float32).dtype == double.dtype == single.dtype == traced.dtype
    np.testing.assert_array_equal(single, double)
    np.testing.assert_allclose(single, traced, rtol=1e-6)


def test_a_loaded_policy_multiplies_in_single_precision_on_any_device(folder):
    jaxpr = str(jax.make_jaxpr(load_policy(folder))(np.zeros(3, np.float32), jax.random.key(5)))
    assert jaxpr.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == jaxpr.count("dot_general[") > 0


def test_options_of_version_1_are_read_under_todays_names(folder):
    config = from_json(RunFolder.open(folder).config)
    assert (config.objective.name, config.policy.hidden_sizes) == (folder.name, (4,))
    clip, entropy = {"fpo": (0.15, 0.0), "ppo": (0.2, 0.01)}[folder.name]
    assert (config.objective.clip_epsilon, config.regularisers.entropy) == (clip, Entropy(entropy))


def test_a_run_of_version_1_is_not_continued_and_says_what_can_be_done(folder):
    with pytest.raises(
        ValueError, match=r"--resume True is not allowed: .* it can be evaluated, but was written by version 1"
    ):
        parse(["--resume", "--out", str(folder)])


@pytest.mark.parametrize("section", ["fpo", "ppo", "policy", "learning", "rollout"])
def test_a_folder_of_version_1_that_lacks_a_section_is_refused(folder, section):
    values = dict(RunFolder.open(folder).config)
    del values[section]
    with pytest.raises(ValueError, match="start a new run, or read it with the version that wrote it"):
        from_json(values)
