"""Environments spread over devices: the same bits on any number of them, and steps that ask no other device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from probe_tasks import CountingTask

from dipod_jax.envs import BatchedEnv


@pytest.fixture(scope="module", params=["two", "all"])
def report(request):
    script = Path(__file__).with_name("on_four_devices.py")
    flags = "--xla_force_host_platform_device_count=4"  # and none of the tests' own: XLA's new emitters keep the bits
    path = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, script, request.param], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # tests/training/test_topologies.py holds the bits of a rollout quickly
@pytest.mark.parametrize("what", ["alone", "over seeds"])
def test_the_number_of_devices_changes_no_bit(report, what):
    digests = report[what]
    assert len(digests) >= 2 and len(set(digests.values())) == 1, digests


@pytest.mark.slow
def test_a_scan_of_steps_is_partitioned_and_asks_no_other_device(report):
    assert report["num_partitions"] == 4
    assert report["collectives in a scan of steps"] == []


def test_devices_must_share_the_environments_evenly():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="num_envs 3 is not allowed: a multiple of the 2 devices"):
        BatchedEnv(CountingTask(), 5, mesh).reset(jax.random.key(0), 3)
