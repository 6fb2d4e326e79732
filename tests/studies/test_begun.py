"""A study that several processes run at once: each part is done by one of them, and none is forgotten."""

import threading
import time

import pytest

from dipod_jax.runs.lock import FolderLock
from dipod_jax.studies import begun as module
from dipod_jax.studies.begun import LOCKS, begun, share_out


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)


def test_every_part_is_done_by_one_of_those_that_share_them(tmp_path):
    parts, done, busy = [f"part{i}" for i in range(12)], [], set()

    def work(part):
        assert part not in busy
        busy.add(part)
        if part not in [name for name, _ in done]:
            time.sleep(0.01)
            done.append((part, threading.get_ident()))
        busy.remove(part)

    workers = [threading.Thread(target=share_out, args=(tmp_path, parts, str, work, print)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert sorted(name for name, _ in done) == sorted(parts) and not busy
    assert len({who for _, who in done}) == 3


def test_what_another_process_has_comes_last_and_is_waited_for(tmp_path):
    folder = tmp_path / LOCKS / "a"
    folder.mkdir(parents=True)
    lock, said, order = FolderLock(folder), [], []

    def say(line):
        said.append(line)
        lock.release()

    share_out(tmp_path, ["a", "b"], str, order.append, say)
    assert order == ["b", "a"]
    (line,) = said
    assert line.startswith("waiting for other processes of this study: ") and "is in use by process" in line


def test_parts_of_one_name_are_not_done_at_the_same_time(tmp_path):
    held = []

    def work(part):
        with pytest.raises(module.RunFolderError):
            FolderLock(tmp_path / LOCKS / part[0])
        held.append(part)

    share_out(tmp_path, ["a1", "a2", "b1"], lambda part: part[0], work, print)
    assert held == ["a1", "a2", "b1"]


def test_a_part_that_fails_is_free_for_others(tmp_path):
    def fail(part):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        share_out(tmp_path, ["a"], str, fail, print)
    share_out(tmp_path, ["a"], str, lambda part: None, lambda line: pytest.fail(line))


def test_processes_of_one_study_share_its_folder_and_those_of_another_are_refused(tmp_path):
    with begun(tmp_path, {"a": 1}), begun(tmp_path, {"a": 1}):
        pass
    with pytest.raises(ValueError, match=r"--a 2 .* was begun with 1"), begun(tmp_path, {"a": 2}):
        pass
