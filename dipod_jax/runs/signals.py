"""Being asked to stop: Ctrl-C, and what batch systems send."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that an iteration ends before the run does; a second signal kills."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {s: signal.getsignal(s) for s in signals}

    def request(number: int, frame: Any) -> None:
        event.set()
        for s in signals:
            signal.signal(s, previous[s])

    for s in signals:
        signal.signal(s, request)
    try:
        yield event
    finally:
        for s in signals:
            signal.signal(s, previous[s])
