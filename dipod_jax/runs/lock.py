"""One folder, one run: a lock that names its owner and that dies with it.

The lock is the kernel's, on the file `.lock` in the folder (`flock`): it is gone the moment its owner is, however that
ended, so that no lock is ever stale. The file says who the owner is. It is removed when a run ends by itself.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dipod_jax.runs.errors import RunFolderError, reason_of

LOCK = ".lock"
_WAY_OUT = "; let that run end or stop it, or name another --out"
_LOOK_AGAIN_S = 0.1
MAX_BYTES = 4096
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """The right to write into a run's folder."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            RunFolderError: another process has it.
            OSError: no file can be written there.
        """
        self.path = folder / LOCK
        self.taken_over_from: str | None = None
        """Who had it before and did not release it, and why; None where nobody had."""
        while not self._try():
            pass

    def _try(self) -> bool:
        """Take it, unless its file is removed in the same instant, by the owner before."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            before = _read_owner(self._descriptor)
            self._lock(before)
            if not self.is_held():
                self._close()
                return False
            before = _read_owner(self._descriptor)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (json.dumps(_this_process()) + "\n").encode(), 0)
        except BaseException:
            self._close()
            raise
        if before is not None:
            copied = before["host"] == socket.gethostname() and _may_live(before)
            why = "still runs, in the folder that this is a copy of" if copied else "was killed"
            self.taken_over_from = f"{_name(before)}, which {why}"
        return True

    def _lock(self, before: dict[str, Any] | None) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(_refusal(self.path, before)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if before is not None and _may_live(before):
                way_out = f"if that has ended, delete {self.path}"
                raise RunFolderError(f"{_refusal(self.path, before)}; {way_out} ({reason_of(error)})") from None

    def is_held(self) -> bool:
        """Whether the file in the folder is still the one that is locked."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Remove the file, then give up the lock; may be called twice."""
        if self._descriptor < 0:
            return
        if self.is_held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        """Close the file, and forget its number: the next file of this process gets it."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def __del__(self) -> None:
        """A lock that nobody refers to is released."""
        if getattr(self, "_descriptor", -1) >= 0:
            with contextlib.suppress(OSError):
                self.release()


@contextlib.contextmanager
def locked(folder: Path, patience_s: float = 30.0, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Nobody else has the folder meanwhile; who has it before is waited for.

    Args:
        folder: exists.
        patience_s: seconds to wait at most.
        say: is told once whom it waits for.

    Raises:
        RunFolderError: another process had it all that time.
        OSError: no file can be written there.
    """
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            lock = FolderLock(folder)
            break
        except RunFolderError as refusal:
            if time.monotonic() > deadline:
                raise
            if not told:
                say(f"waiting: {who_has(refusal)}")
            told = True
            time.sleep(_LOOK_AGAIN_S)
    try:
        yield
    finally:
        lock.release()


def who_has(refusal: RunFolderError) -> str:
    """What a refused lock says, without its advice to one who does not wait."""
    return str(refusal).replace(_WAY_OUT, "")


def check_free(folder: Path) -> None:
    """Raise RunFolderError where a process has the lock of `folder`. Leaves nothing behind."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(_refusal(folder / LOCK, _read_owner(descriptor))) from None
    except OSError:
        return  # told by the one that takes the lock
    finally:
        os.close(descriptor)


def read_owner(folder: Path) -> dict[str, Any] | None:
    """Who has the lock of `folder`, or ended with it: `host`, `pid` and `boot`; None where it was released."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)


def _refusal(lock: Path, owner: dict[str, Any] | None) -> str:
    by = "another process" if owner is None else _name(owner)
    return f"{lock.parent} is in use by {by}{_WAY_OUT}"


def _read_owner(descriptor: int) -> dict[str, Any] | None:
    """What the file says; None where it is empty or says nothing that is understood."""
    try:
        owner = json.loads(os.pread(descriptor, MAX_BYTES, 0))
    except (ValueError, RecursionError, OSError):
        return None
    known = isinstance(owner, dict) and isinstance(owner.get("host"), str) and type(owner.get("pid")) is int
    return owner if known else None


def _name(owner: dict[str, Any]) -> str:
    host = "".join(c for c in owner["host"] if c.isprintable())[:80]
    return f"process {owner['pid']} on {host}"


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot_id()}


def _boot_id() -> str | None:
    """What changes when the machine starts again; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _may_live(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run: it is on another machine, or a process of that number is on this one."""
    if owner["host"] != socket.gethostname():
        return True
    if owner.get("boot") != _boot_id():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
