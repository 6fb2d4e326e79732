"""The number of devices does not change a run, also where it changes in the middle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

SCRIPT = Path(__file__).with_name("on_eight_devices.py")


def run(*numbers):
    """What the script prints, in a process with eight devices."""
    path = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, SCRIPT, *map(str, numbers)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_one_and_four_devices_begin_the_same_run():
    report = run(1, 1, 4)
    assert report["devices"] == 8 and len(report["first"]) == 2 and len(set(report["first"].values())) == 1
    one, *others = (np.array(x) for x in report["after"].values())
    for other in others:
        assert_allclose(other, one, atol=1e-5)
        assert np.abs(other - one).max() > 0  # sums in another order: the devices did take part


@pytest.fixture(scope="module")
def report():
    return run(3, 1, 2, 4, 8)


@pytest.mark.slow
def test_the_first_rollout_has_the_same_bits_on_any_number_of_devices(report):
    assert report["devices"] == 8 and len(report["first"]) == 4
    assert len(set(report["first"].values())) == 1, report["first"]


@pytest.mark.slow
def test_parameters_after_three_updates_are_the_same_to_rounding(report):
    one, *others = (np.array(x) for x in report["after"].values())
    for other in others:
        assert_allclose(other, one, atol=1e-5)
        assert np.abs(other - one).max() > 0  # sums in another order: the devices did take part


@pytest.mark.slow
def test_a_run_that_goes_on_on_other_devices_is_the_same_run_to_rounding(report):
    assert len(report["resumed"]) == 4
    for resumed in report["resumed"].values():
        assert_allclose(resumed, report["after"]["1"], atol=1e-5)
