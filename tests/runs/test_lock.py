"""One folder, one run: the second is refused, and a dead owner hinders nobody."""

import errno
import fcntl
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_run import FakeSession, run_session

from dipod_jax.runs import RunFolder, RunFolderError, check_unused
from dipod_jax.runs.lock import FolderLock

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
HOLDER = """
import sys, time
from pathlib import Path
from dipod_jax.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of `tmp_path`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_in_one_line_that_names_the_owner(tmp_path, holder):
    for take in (FolderLock, check_unused):
        with pytest.raises(RunFolderError) as caught:
            take(tmp_path)
        message = str(caught.value)
        assert f"is in use by process {holder.pid} on {socket.gethostname()}" in message and "\n" not in message
    owner = json.loads((tmp_path / ".lock").read_text())
    assert owner["boot"] == BOOT


def test_a_copy_of_a_folder_in_use_is_free_and_says_whose_copy_it_is(tmp_path, holder):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / ".lock", copy)
    owner = f"process {holder.pid} on {socket.gethostname()}"
    assert FolderLock(copy).taken_over_from == f"{owner}, which still runs, in the folder that this is a copy of"


def test_the_lock_of_an_owner_that_was_killed_is_taken_over_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    lock = FolderLock(tmp_path)
    assert lock.taken_over_from == f"process {holder.pid} on {socket.gethostname()}, which was killed"
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert FolderLock(tmp_path).taken_over_from is None


def test_a_refused_lock_closes_its_own_file_alone_however_late_it_is_forgotten(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(RunFolderError) as refused:
        FolderLock(tmp_path)
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)  # under the number that the refused one had
    del refused  # whose traceback holds it
    gc.collect()
    assert os.fstat(other).st_ino == (tmp_path / "other").stat().st_ino
    os.close(other)
    lock.release()


def test_a_lock_whose_file_was_removed_is_known_to_be_lost(tmp_path):
    lock = FolderLock(tmp_path)
    assert lock.is_held()
    (tmp_path / ".lock").unlink()
    assert not lock.is_held()
    other = FolderLock(tmp_path)
    lock.release()  # and leaves the other's alone
    assert other.is_held()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"host": 3}', b"\xff", b'{"host": "h", "pid": 1.5}'])
def test_a_lock_file_that_says_nothing_is_taken(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    assert FolderLock(tmp_path).taken_over_from is None


@pytest.mark.parametrize(
    ("owner", "refused"),
    [
        ({"host": "elsewhere", "pid": 1, "boot": None}, True),
        ({"host": socket.gethostname(), "pid": os.getpid()}, True),
        ({"host": socket.gethostname(), "pid": 2**22 + 1}, False),  # no process has such a number
        ({"host": socket.gethostname(), "pid": os.getpid(), "boot": "of another start"}, False),
    ],
)
def test_where_the_file_system_has_no_locks_the_file_decides(tmp_path, monkeypatch, owner, refused):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".lock").write_text(json.dumps({"boot": BOOT, **owner}))
    if not refused:
        FolderLock(tmp_path)
        return
    with pytest.raises(RunFolderError, match=r"if that has ended, delete .*\.lock \(no locks available\)"):
        FolderLock(tmp_path)


CREATOR = """
import sys
from pathlib import Path
from dipod_jax.runs import RunFolder, RunFolderError
sys.stdin.readline()
try:
    folder = RunFolder.create(Path(sys.argv[1]), {"me": sys.argv[2]})
    print("mine", flush=True)
    sys.stdin.readline()
except RunFolderError as error:
    print(error, flush=True)
"""


def test_of_three_that_create_one_folder_in_one_instant_one_succeeds(tmp_path):
    path = tmp_path / "run"
    words = [sys.executable, "-c", CREATOR, str(path)]
    processes = [subprocess.Popen([*words, str(n)], stdin=-1, stdout=-1, text=True) for n in range(3)]
    try:
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in processes]
    finally:
        for process in processes:
            process.communicate("end\n", timeout=30)
    assert lines.count("mine\n") == 1 and sum("is in use by" in line for line in lines) == 2
    assert RunFolder.open(path).config == {"me": str(lines.index("mine\n"))}


def test_resume_beside_a_live_run_is_refused_and_the_live_run_loses_nothing(tmp_path):
    out = tmp_path / "run"
    first = FakeSession(out, act=0.05, checkpoint_interval=1.0, total_steps=10**6)
    while not list(out.glob("checkpoints/step_*")):
        assert first.poll() is None
        time.sleep(0.01)
    for options in ({"resume": True}, {}):
        second = run_session(out, **options)
        assert second.returncode == 2 and f"is in use by process {first.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    iterations = [r["iteration"] for r in RunFolder.open(out).read_metrics() if r["kind"] == "train"]
    assert iterations == list(range(1, len(iterations) + 1))
    assert not (out / ".lock").exists()


@pytest.mark.slow
def test_a_killed_run_is_resumed_at_once(tmp_path):
    out = tmp_path / "run"
    first = FakeSession(out, act=0.05)
    while not list(out.glob("checkpoints/step_*")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = run_session(out, resume=True)
    assert done.returncode == 0 and f"process {first.pid}" in done.stdout
