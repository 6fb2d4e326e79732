"""Being asked to stop: Ctrl-C, what batch systems send, a terminal that hangs up.

Python runs its signal handlers on the main thread between two of its instructions, and a compilation is one
instruction of a minute. So a thread of its own learns of signals here, from the file descriptor that Python writes
them to at once, and does what cannot wait.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# How long a phase that can be abandoned may still take to end by itself.
GRACE_S = 1.0
_POLL_S = 0.1


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved what it had."""

    def __init__(self, number: int) -> None:
        """Asked by the signal `number`."""
        super().__init__(signal.Signals(number).name)
        self.exit_status = _exit_status(number)


class StopRequest:
    """Whether the run was asked to stop, and what to do where it cannot be asked to look."""

    def __init__(self) -> None:
        """Not asked yet."""
        self._number: int | None = None
        self._since = 0.0
        self._leave: Callable[[], None] | None = None
        self._is_leaving = False
        self._lock = threading.Lock()
        self.on_signal: Callable[[int], None] = lambda number: None
        """Told of the first signal to this process; not of those that `hear` was told of."""
        self.on_exit: Callable[[int], None] = lambda status: None
        """Told of the exit status just before the process is ended here."""

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def stopped(self) -> Stopped:
        """What to raise when everything is saved."""
        return Stopped(self._number or signal.SIGINT)

    @contextmanager
    def abandonable(self, leave: Callable[[], None]) -> Iterator[None]:
        """A phase that does not change what a run is made of, as a compilation or an evaluation.

        Where it does not end by itself within a second of a signal, `leave` is called on another thread, to save and
        say what there is, and the process ends.
        """
        with self._lock:
            self._leave, self._since = leave, max(self._since, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._leave = None
                is_leaving = self._is_leaving
            while is_leaving:  # what comes next would change what is being saved
                time.sleep(1.0)

    def receive(self, number: int) -> None:
        """Take note of a signal; end the process at the second one. A shell may repeat that the terminal is gone."""
        if self._number is None:
            self.hear(number)
            self.on_signal(number)
        elif number != signal.SIGHUP:
            say("stopped at once; what was saved before stands")
            self._exit(_exit_status(number))

    def hear(self, number: int) -> None:
        """Take note that another process of the run was sent a signal."""
        if self._number is None:
            self._since = time.monotonic()
            self._number = number

    @property
    def number(self) -> int:
        """The signal that has come; 0 where none has."""
        return self._number or 0

    def abandon_if_due(self) -> None:
        """Leave a phase that can be abandoned and was asked to end long enough ago."""
        with self._lock:
            late = self._number is not None and time.monotonic() - self._since > GRACE_S
            if not late or self._leave is None or self._is_leaving:
                return
            self._is_leaving = True
            leave = self._leave
        threading.Thread(target=self._end, args=(leave,), daemon=True).start()

    def _end(self, leave: Callable[[], None]) -> None:
        try:
            leave()
        except BaseException as error:
            say(f"error: {error}")
            self._exit(getattr(error, "EXIT_STATUS", 1))
        self._exit(self.stopped().exit_status)

    def _exit(self, status: int) -> NoReturn:
        self.on_exit(status)
        os._exit(status)


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """A request that SIGINT, SIGTERM and SIGHUP make, so that an iteration ends before the run does.

    SIGHUP stays ignored where it was, as under `nohup`. Elsewhere than on the main thread no signal is taken.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    taken = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        taken.append(signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_watch, args=(reader, request, taken), name="signals", daemon=True)
    watcher.start()
    previous = {number: signal.signal(number, lambda *_: None) for number in taken}
    previous_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield request
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(writer)  # the watcher's end
        watcher.join()
        os.close(reader)


def _watch(reader: int, request: StopRequest, taken: list[signal.Signals]) -> None:
    while True:
        ready, _, _ = select.select([reader], [], [], _POLL_S if request.is_set() else None)
        if ready:
            received = os.read(reader, 64)
            if not received:
                return
            for number in received:
                if number in taken:
                    request.receive(number)
        request.abandon_if_due()


def _exit_status(number: int) -> int:
    """128 + the signal's number, as shells report it; of a terminal that hung up, as if it had been SIGTERM."""
    return 128 + (signal.SIGTERM if number == signal.SIGHUP else number)


def say(line: str) -> None:
    """Write to standard error past every lock that the main thread may hold, and give a terminal its cursor back."""
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h\n")
        os.write(2, f"{' '.join(line.split())}\n".encode(sys.getfilesystemencoding(), "backslashreplace"))
