"""The processes of one run watch each other: each is told when another stops, ends or dies.

A collective that waits for a dead process may wait for ever, and Python does not run meanwhile. So a thread of each
process holds a TCP connection, the others' to the first, over which every process says that it lives. A process that is
killed loses its connection in the same moment, one whose machine is gone falls silent.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time

from dipod_jax.runs.signals import StopRequest, say

EXIT_STATUS = 69  # EX_UNAVAILABLE of sysexits.h: another process of the run is lost
BEAT_S = 1.0
SILENCE_S = 25.0
LEAVE_S = 10.0  # that a process has to end by itself where another has ended before its time
CONNECT_S = 60.0
# What a process says, followed by a number of two bytes: nothing, the signal, the exit status, the lost process.
_ALIVE, _SIGNAL, _ENDED, _LOST = b"a", b"s", b"e", b"l"
_SIZE = 3


class Watch:
    """Connections to the others (of the first process), or to the first (of any other), and the thread that listens."""

    def __init__(self, peers: dict[int, socket.socket], way_out: str) -> None:
        """Begin to watch.

        Args:
            peers: connected sockets by the number of the process at their other end.
            way_out: what a user does where a process is lost, for the end of the line that says so.
        """
        self._peers, self._way_out = peers, way_out
        self._stop: StopRequest | None = None
        self._ended: dict[int, int] = {}
        self._leave_at: float | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self._thread.start()

    def take(self, stop: StopRequest) -> None:
        """Let a signal to any process be one to all."""
        self._stop = stop
        stop.on_signal = lambda number: self._tell(_SIGNAL, number)
        stop.on_exit = self.end

    def end(self, status: int) -> None:
        """Say that this process ends, with what exit status, and watch no longer."""
        self._closed.set()
        self._tell(_ENDED, status)
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)

    def wait_until_lost(self, seconds: float) -> None:
        """Give the thread time to find out whether what failed here is another process's death; it ends this one."""
        self._closed.wait(seconds)

    def _tell(self, kind: bytes, number: int, but: int | None = None) -> None:
        for index, peer in self._peers.items():
            # of the first process, an end that it passed on is known as well as its own: it still wants to hear ours
            if index != but and (kind == _ENDED or index not in self._ended):
                with self._lock, contextlib.suppress(OSError):
                    peer.sendall(kind + number.to_bytes(2, "big"))

    def _listen(self) -> None:
        heard = dict.fromkeys(self._peers, time.monotonic())
        beaten = 0.0
        with selectors.DefaultSelector() as selector:
            for index, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, index)
            while not self._closed.is_set():
                for key, _ in selector.select(0.1):
                    if self._receive(key.data):
                        heard[key.data] = time.monotonic()
                    else:
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now - beaten > BEAT_S:
                    beaten = now
                    self._tell(_ALIVE, 0)
                silent = [i for i, t in heard.items() if now - t > SILENCE_S and i not in self._ended]
                if silent:
                    self._lose(silent[0])
                if self._stop is not None:
                    self._stop.abandon_if_due()
                if self._leave_at is not None and now > self._leave_at:
                    self._follow()

    def _receive(self, index: int) -> bool:
        """Whether the process goes on."""
        try:
            received = self._peers[index].recv(_SIZE, socket.MSG_WAITALL)
        except OSError:
            received = b""
        if len(received) < _SIZE:
            if index not in self._ended:
                self._lose(index)
            return False
        kind, number = received[:1], int.from_bytes(received[1:], "big")
        if kind == _SIGNAL:
            self._tell(_SIGNAL, number, but=index)
            if self._stop is not None:
                self._stop.hear(number)
        elif kind == _ENDED:
            self._ended[index] = number
            if number != 0:
                self._tell(_ENDED, number, but=index)
                self._leave_at = time.monotonic() + LEAVE_S
        elif kind == _LOST:
            self._lose(number)
        return True

    def _lose(self, index: int) -> None:
        """End at once: a collective that fails, or jax's own client, would end this process in many lines."""
        if self._closed.is_set():
            return
        self._tell(_LOST, index)
        _exit(f"error: process {index} of this run has died or does not answer; {self._way_out}", EXIT_STATUS)

    def _follow(self) -> None:
        """End as the other process did, which has said why."""
        index, status = next((i, s) for i, s in self._ended.items() if s != 0)
        self.end(status)  # who follows a moment later would take silence for a death
        _exit(f"error: process {index} of this run has ended with status {status}; {self._way_out}", status)


def listen() -> tuple[socket.socket, int]:
    """A socket on which the first process waits for the others, and its port."""
    server = socket.create_server(("", 0), backlog=1024)
    server.settimeout(CONNECT_S)
    return server, server.getsockname()[1]


def accept_all(server: socket.socket, count: int) -> dict[int, socket.socket]:
    """The connections of `count` processes, by the number that each sends first.

    Raises:
        OSError: not all have come within a minute.
    """
    peers: dict[int, socket.socket] = {}
    with server:
        while len(peers) < count:
            peer, _ = server.accept()
            peer.settimeout(CONNECT_S)
            peers[int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")] = peer
    return peers


def connect(host: str, port: int, index: int) -> dict[int, socket.socket]:
    """The connection of process `index` to the first.

    Raises:
        OSError: there is no way to it.
    """
    peer = socket.create_connection((host, port), timeout=CONNECT_S)
    peer.sendall(index.to_bytes(4, "big"))
    return {0: peer}


def _exit(line: str, status: int) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    say(line)
    os._exit(status)
