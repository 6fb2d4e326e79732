"""The processes of one run end together."""

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dipod_jax.runs import watch
from dipod_jax.runs.watch import EXIT_STATUS

PEER = Path(__file__).with_name("watch_peer.py")


@pytest.fixture
def peers():
    """Three processes that do what they are told; those that are left are killed."""
    started = []

    def start(*whats):
        environment = os.environ | {"PYTHONPATH": str(PEER.parents[2])}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        run = lambda *words: started.append(subprocess.Popen([sys.executable, PEER, *words], **pipes))
        run("first", str(len(whats) - 1), whats[0])
        port = started[0].stdout.readline().strip()
        for index, what in enumerate(whats[1:], start=1):
            run(str(index), port, what)
        for process in started:
            assert process.stdout.readline() == "watching\n", process.stderr.read()
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(process):
    """Exit status and the lines on standard error."""
    _, err = process.communicate(timeout=30)
    return process.returncode, err.splitlines()


@pytest.mark.parametrize("killed", [0, 2])
def test_where_one_process_is_killed_all_others_end_soon_with_one_line(peers, killed):
    processes = peers("wait", "wait", "wait")
    processes[killed].kill()
    before = time.monotonic()
    line = f"error: process {killed} of this run has died or does not answer; continue with --resume"
    for index in {0, 1, 2} - {killed}:
        assert ends(processes[index]) == (EXIT_STATUS, [line])
    assert time.monotonic() - before < 10.0


def test_a_signal_to_one_process_is_one_to_all(peers):
    processes = peers("heed", "heed", "heed")
    processes[1].send_signal(signal.SIGTERM)
    assert [ends(process) for process in processes] == [(143, [])] * 3


def test_a_process_that_follows_another_says_so_before_it_ends(monkeypatch):
    """Else one that follows a moment later takes it for one that died."""
    left = queue.Queue()
    monkeypatch.setattr(watch, "LEAVE_S", 0.0)
    monkeypatch.setattr(watch, "_exit", lambda line, status: left.put(status))
    first, other = socket.socketpair()
    watch.Watch({0: other}, "continue")
    first.sendall(b"e" + (74).to_bytes(2, "big"))
    assert left.get(timeout=10.0) == 74
    first.settimeout(10.0)
    told = b"".join(iter(lambda: first.recv(64), b""))
    assert [told[i : i + 3] for i in range(0, len(told), 3) if told[i : i + 1] == b"e"] == [b"e\x00J"]


def test_the_first_process_hears_of_an_end_also_where_it_had_passed_on_anothers():
    """As after a signal to all: else the second to end would count as one that died."""
    first, other = socket.socketpair()
    watching = watch.Watch({0: other}, "continue")
    first.sendall(b"e" + (143).to_bytes(2, "big"))
    while 0 not in watching._ended:
        time.sleep(0.01)
    watching.end(143)
    first.settimeout(10.0)
    told = b"".join(iter(lambda: first.recv(64), b""))
    assert [told[i : i + 3] for i in range(0, len(told), 3) if told[i : i + 1] == b"e"] == [b"e\x00\x8f"]


def test_a_process_that_ends_with_an_error_takes_the_others_with_it(peers):
    processes = peers("wait", "74", "wait")
    assert ends(processes[1]) == (74, [])
    line = "error: process {} of this run has ended with status 74; continue with --resume"
    assert ends(processes[0]) == (74, [line.format(1)])
    assert ends(processes[2]) == (74, [line.format(0)])


def test_a_process_that_has_finished_is_not_missed(peers):
    processes = peers("wait", "0", "wait")
    assert ends(processes[1]) == (0, [])
    time.sleep(1.0)
    assert processes[0].poll() is None and processes[2].poll() is None
