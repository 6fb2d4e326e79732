"""The Ray launcher on a real cluster of two nodes on this machine, of which one is killed in mid-run."""

import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray
from fake_sweep import fake_units
from test_local import assert_each_done_once, wait_until

from dipod_jax.launch.base import Job
from dipod_jax.launch.ray import Ray
from dipod_jax.runs.errors import MachineError
from dipod_jax.studies.sweep import states

HERE = Path(__file__).parent
STEPS = {"total_steps": 16 * 30}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each, whose processes train fake programs (`fake_sweep.patch`)."""
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("FAKE_SECONDS", "{'act': 0.1}")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default a worker yields to everything else
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = started.add_node(num_cpus=1)
    started.wait_for_nodes()
    yield started, second
    started.shutdown()


@pytest.mark.slow
def test_a_sweep_outlives_a_node_and_does_every_unit_once(tmp_path, cluster, monkeypatch, capsys):
    started, second = cluster
    out, betas = tmp_path / "s", (0.0, 0.1, 0.2)
    units = fake_units(out, betas=betas, **STEPS)
    monkeypatch.setattr("dipod_jax.launch.ray.train_unit", faked)
    killed = threading.Event()

    def kill_second():
        wait_until(lambda: len(list(out.glob("units/*/checkpoints/*"))) >= 4, 300)
        assert sum(states.is_taken(unit) for unit in units) == 2  # one on each node
        started.remove_node(second, allow_graceful=False)
        killed.set()

    killer = threading.Thread(target=kill_second)
    killer.start()
    job = Job(out, tuple(units), "a", ray_address=started.address)
    Ray().submit(job)
    killer.join()
    assert killed.is_set() and "3 units: 3 done" in capsys.readouterr().out
    assert_each_done_once(out, 3)
    logs = "".join((unit.logs / "output.log").read_text() for unit in units)
    assert "continuing for" in logs  # the unit of the lost node went on from its checkpoint
    assert all(states.failures(unit) == [] for unit in units)


def faked(out: str, identity: str, session: str) -> None:
    """`train_unit` over fake programs; pickled by value, as a test module is not on the nodes."""
    import fake_sweep

    from dipod_jax.launch import ray as launcher

    fake_sweep.patch()
    launcher.train_unit(out, identity, session)


@pytest.mark.slow
def test_a_unit_that_crashes_is_tried_twice_and_one_that_another_command_trains_is_waited_for(
    tmp_path, cluster, monkeypatch, capsys
):
    started, _ = cluster
    out = tmp_path / "s"
    crashing, held, good = fake_units(out, betas=(0.0, 0.1, 0.2))
    monkeypatch.setattr("dipod_jax.launch.ray.train_unit", crashing_in(crashing.id))
    lock = states.take(held)
    assert lock is not None
    threading.Timer(20.0, lock.release).start()  # another command, which gives it up
    Ray().submit(Job(out, (crashing, held, good), "a", ray_address=started.address))
    assert "3 units: 2 done, 1 failed" in capsys.readouterr().out
    assert (crashing.logs / "tries").read_text() == "xx" and len(states.failures(crashing, "a")) == 2
    assert states.is_done(held) and states.is_done(good) and states.failures(held) == []


def crashing_in(crashing: str):
    """`faked`, but that the unit's process is killed."""

    def train(out: str, identity: str, session: str) -> None:
        import os
        import signal
        from pathlib import Path

        if identity == crashing:
            logs = Path(out) / "logs" / identity
            logs.mkdir(parents=True, exist_ok=True)
            with (logs / "tries").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        import fake_sweep

        from dipod_jax.launch import ray as launcher

        fake_sweep.patch()
        launcher.train_unit(out, identity, session)

    return train


@pytest.mark.slow
def test_no_cluster_is_one_line(tmp_path, monkeypatch):
    units = fake_units(tmp_path / "s", betas=(0.0,))
    with pytest.raises(MachineError, match=r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers"):
        Ray().submit(Job(tmp_path / "s", tuple(units), "a", ray_address="127.0.0.1:1"))
    assert not ray.is_initialized()
