"""What batch systems are given: an array script, an indexed job, and the workers that they start."""

import subprocess

import pytest
import yaml

from dipod_jax.launch import worker
from dipod_jax.launch.base import Job
from dipod_jax.launch.kubernetes import Kubernetes
from dipod_jax.launch.slurm import Slurm
from dipod_jax.presets import make_config
from dipod_jax.studies.sweep.plan import extend_plan, make_unit

SMOKE, _ = make_config("smoke", "BallInCup", "fpo", "native")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A sweep of five units in a folder whose name a shell would take apart."""
    out = tmp_path_factory.mktemp("a $(b) 'c'") / "Figure 2"
    configs = [make_config("smoke", "BallInCup", "fpo", "native")[0] for _ in range(5)]
    units = [make_unit(out, type(c)(**{**vars(c), "beta": 0.1 * i})) for i, c in enumerate(configs)]
    return out, extend_plan(out, units)


def test_the_array_script_is_bash_that_hands_signals_to_the_worker(planned, capsys):
    out, units = planned
    Slurm().submit(Job(out, tuple(units), "s", workers=3))
    script = out / "sweep.sbatch"
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    lines = script.read_text().splitlines()
    for line in ("#SBATCH --array=0-2", "#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"):
        assert line in lines
    assert lines[-1].startswith("exec ") and lines[-1].endswith(" --shard")
    assert "sbatch" in capsys.readouterr().out
    # What bash makes of the last line is the worker's command, the folder in one piece.
    words = subprocess.run(
        ["bash", "-c", lines[-1].replace("exec", "printf '%s\\n'", 1)], capture_output=True, text=True
    )
    assert words.stdout.splitlines()[1:] == ["-m", "dipod_jax.launch.worker", str(out), "--shard"]


def test_a_script_for_some_of_the_planned_units_names_them(planned):
    out, units = planned
    Slurm().submit(Job(out, tuple(units[:2]), "s"))
    text = (out / "sweep.sbatch").read_text()
    assert f"--ids {units[0].id} {units[1].id} --shard" in text and "--array=0-1" in text


def test_the_kubernetes_job_is_indexed_and_tells_its_workers_how_many_they_are(planned):
    out, units = planned
    Kubernetes().submit(Job(out, tuple(units), "s"))
    job = yaml.safe_load((out / "job.yaml").read_text())
    spec, container = job["spec"], job["spec"]["template"]["spec"]["containers"][0]
    assert job["kind"] == "Job" and job["metadata"]["name"] == "sweep-figure-2"
    assert (spec["completionMode"], spec["completions"], spec["backoffLimitPerIndex"]) == ("Indexed", 5, 1)
    (rule,) = spec["podFailurePolicy"]["rules"]
    disrupted = {"type": "DisruptionTarget", "status": "True"}  # text: as the schema of Kubernetes requires
    assert rule == {"action": "Ignore", "onPodConditions": [disrupted]}
    assert container["command"] == ["python", "-m", "dipod_jax.launch.worker", str(out), "--shard"]
    assert container["env"] == [{"name": "JOB_COMPLETIONS", "value": "5"}]
    assert container["resources"] == {"limits": {"cpu": 1}}  # of which `available_cores` knows
    assert container["volumeMounts"][0]["mountPath"] == str(out.parent)


def test_the_workers_of_an_array_share_the_plan_out_and_are_one_session(planned, monkeypatch):
    out, units = planned
    environment = {"ARRAY_JOB_ID": "77", "ARRAY_TASK_MIN": "0", "ARRAY_TASK_STEP": "1", "ARRAY_TASK_COUNT": "3"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    taken = []
    for index in range(3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        options = worker.parse([str(out), "--shard"])
        assert options.session == "77"
        taken += [unit.id for unit in options.units]
    assert sorted(taken) == sorted(unit.id for unit in units)


@pytest.mark.parametrize("arguments", [["--ids", "nothing"], ["--shard", "5/2"], ["--what"]])
def test_a_bad_worker_is_one_line(planned, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        worker.main([str(planned[0]), *arguments])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and arguments[0] in err


def test_a_worker_of_no_sweep_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        worker.main([str(tmp_path)])
    assert ended.value.code == 2 and "holds no sweep" in capsys.readouterr().err
