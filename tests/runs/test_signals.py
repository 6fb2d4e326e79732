"""A run that is asked to stop has saved within an iteration and a few seconds, in every phase of it."""

import os
import signal
import subprocess
import time

import pytest
from fake_run import FakeSession, command, run_session

from dipod_jax.runs import RunFolder, latest_checkpoint
from dipod_jax.runs.shelf import checkpoint_step

LONG = {"total_steps": 10**6}


def few_seconds(idle=5.0):
    """Seconds on an idle machine; as many times more as there are processes for each core."""
    return idle * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {text!r}")


def end(process):
    """Exit status, output, error lines and the seconds it took."""
    before = time.monotonic()
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err.splitlines(), time.monotonic() - before


@pytest.mark.parametrize(
    ("name", "status"),
    [
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 143, marks=pytest.mark.slow),
    ],
)
def test_between_iterations_the_state_is_saved_and_the_status_tells_the_signal(tmp_path, name, status):
    out = tmp_path / "run"
    process = FakeSession(out, act=0.1, checkpoint_interval=3600.0, **LONG)
    wait_for_line(process, "16/")
    process.send_signal(getattr(signal, name))
    returned, printed, err, seconds = end(process)
    assert (returned, err) == (status, ["interrupted"]) and seconds < few_seconds()
    assert "stopped and saved; continue with dipod train --resume --out" in printed
    newest = latest_checkpoint(out / "checkpoints")
    last = max(record["iteration"] for record in RunFolder.open(out).read_metrics())
    assert newest is not None and checkpoint_step(newest) == last >= 1
    assert not (out / ".lock").exists()


def test_while_it_compiles_the_process_ends_within_seconds_and_the_folder_is_free(tmp_path):
    out = tmp_path / "run"
    process = FakeSession(out, compile=600.0)
    wait_for_line(process, "compiling ...")
    process.send_signal(signal.SIGTERM)
    status, printed, err, seconds = end(process)
    assert (status, err) == (143, []) and seconds < few_seconds() and "stopped before training" in printed
    assert run_session(out).returncode == 0


@pytest.mark.slow
def test_in_an_evaluation_the_iteration_before_it_is_saved(tmp_path):
    out = tmp_path / "run"
    process = FakeSession(out, evaluate=8.0, checkpoint_interval=3600.0, **LONG)
    while not (out / "metrics.jsonl").exists() or '"iteration": 5' not in (out / "metrics.jsonl").read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, printed, err, seconds = end(process)
    assert (status, err) == (143, []) and seconds < few_seconds() and "stopped and saved" in printed
    newest = latest_checkpoint(out / "checkpoints")
    assert newest is not None and checkpoint_step(newest) == 5


@pytest.mark.slow
def test_while_pictures_are_drawn_the_run_is_finished_already(tmp_path):
    out = tmp_path / "run"
    process = FakeSession(out, draw=600.0, checkpoint_interval=60.0)
    while not (out / "result.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, printed, err, seconds = end(process)
    assert (status, err) == (143, []) and seconds < few_seconds() and "the run is finished" in printed
    assert RunFolder.open(out).read_result() is not None


@pytest.mark.parametrize("phase", ["compile", "act"])
def test_a_second_signal_ends_the_process_at_once_in_one_line(tmp_path, phase):
    process = FakeSession(tmp_path / "run", **{phase: 600.0})
    wait_for_line(process, "compiling ..." if phase == "compile" else "episodes)")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    status, _, err, seconds = end(process)
    assert (
        status in (130, 143) and seconds < few_seconds(1.0) and err == ["stopped at once; what was saved before stands"]
    )


def test_a_terminal_that_hangs_up_twice_is_one_signal(tmp_path):
    out = tmp_path / "run"
    process = FakeSession(out, act=0.5, checkpoint_interval=3600.0, **LONG)
    wait_for_line(process, "16/")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert end(process)[0] == 143 and latest_checkpoint(out / "checkpoints") is not None


@pytest.mark.slow
def test_under_nohup_a_terminal_that_hangs_up_stops_nothing(tmp_path):
    arguments = command(tmp_path / "run", act=0.1, checkpoint_interval=60.0)
    process = subprocess.Popen(**{**arguments, "args": ["nohup", *arguments["args"]]}, stdout=-1, stderr=-1)
    wait_for_line(process, "16/")
    process.send_signal(signal.SIGHUP)
    assert end(process)[0] == 0 and RunFolder.open(tmp_path / "run").read_result() is not None


@pytest.mark.parametrize("how", ["head", *(pytest.param(h, marks=pytest.mark.slow) for h in ("closed", "full"))])
def test_a_standard_output_that_is_gone_ends_no_run(tmp_path, how):
    out = tmp_path / "run"
    words = " ".join(
        f"'{w}'" if "'" not in w else f'"{w}"' for w in command(out, act=0.01, checkpoint_interval=60.0)["args"]
    )
    shell = {"head": f"{words} | head -n 1", "closed": f"{words} >&-", "full": f"{words} > /dev/full"}[how]
    done = subprocess.run(["bash", "-c", shell], env=command(out)["env"], capture_output=True, text=True, timeout=60)
    assert RunFolder.open(out).read_result() is not None
    said = [
        f"warning: standard output is gone ({why}); the command goes on"
        for why in ("[Errno 32] Broken pipe", "[Errno 28] No space left on device")
    ]
    assert done.stderr.splitlines() == {"head": said[:1], "closed": [], "full": said[1:]}[how]


@pytest.mark.slow
def test_letters_that_the_terminal_lacks_are_written_as_escapes(tmp_path):
    arguments = command(tmp_path / "läuft", checkpoint_interval=60.0)
    environment = {**arguments["env"], "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(**{**arguments, "env": environment}, capture_output=True, timeout=60)
    assert done.returncode == 0 and "everything is in" in done.stdout and "l\\xe4uft" in done.stdout and not done.stderr


def test_importing_signals_installs_nothing():
    before = signal.getsignal(signal.SIGTERM)
    from dipod_jax.runs.signals import stop_requested

    with stop_requested() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not request.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert request.is_set() and request.stopped().exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is before
