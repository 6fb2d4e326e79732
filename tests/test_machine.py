"""What a process may take of the machine is the least of what it and its control groups allow."""

import pytest

from dipod_jax import machine

V2, V1 = "0::/jobs/7/step\n", "4:memory:/jobs/7\n3:cpu,cpuacct:/jobs/7\n0::/\n"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """(who is in which group, file -> text) -> 64 cores, of which the groups leave this process a part."""

    def make(membership, files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        (tmp_path / "membership").write_text(membership)
        monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
        monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)))

    return make


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {"cpu.max": "150000 100000"}, 2),
        ("", {"cpu.max": "50000 100000"}, 1),
        ("", {"cpu.max": "max 100000"}, 64),
        ("", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("", {}, 64),
        (V2, {"jobs/7/step/cpu.max": "max 100000", "jobs/7/cpu.max": "400000 100000"}, 4),
        (V2, {"jobs/7/step/cpu.max": "200000 100000", "jobs/7/cpu.max": "400000 100000"}, 2),
        (V2, {"jobs/8/cpu.max": "200000 100000"}, 64),
        (V1, {"cpu/jobs/7/cpu.cfs_quota_us": "500000", "cpu/jobs/7/cpu.cfs_period_us": "100000"}, 5),
        ("0::/../../elsewhere\nnonsense\n", {"elsewhere/cpu.max": "100000 100000"}, 64),
    ],
)
def test_a_control_group_that_limits_time_limits_the_cores(groups, membership, files, cores):
    groups(membership, files)
    assert machine.available_cores() == cores


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        ("", "memory.max"),
        ("", "memory/memory.limit_in_bytes"),
        (V2, "jobs/7/step/memory.max"),
        (V2, "jobs/memory.max"),
        (V1, "memory/jobs/7/memory.limit_in_bytes"),
    ],
)
def test_a_control_group_that_limits_memory_limits_the_bytes(groups, membership, file):
    physical = machine.machine_bytes()
    groups(membership, {file: 2**22, "jobs/7/memory.max": "max"})
    assert machine.machine_bytes() == 2**22 < physical


def test_a_limit_of_this_process_counts(monkeypatch):
    physical = machine.machine_bytes()
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (2**20, 2**20))
    assert machine.machine_bytes() == 2**20 < physical
