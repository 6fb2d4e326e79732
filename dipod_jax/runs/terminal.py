"""Standard output that a command can write to whatever becomes of it: closed, full, gone, or of few letters."""

import contextlib
import io
import os
import sys
from typing import TextIO


class Terminal:
    """A text stream over another; the first failure is said on standard error, and the command goes on without it."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`, or nowhere where there is none (as Python has it of a closed standard output)."""
        self._stream = stream

    @property
    def encoding(self) -> str:
        """That of the stream; letters it lacks are written as escapes."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal that is still there."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """The stream's descriptor."""
        if self._stream is None:
            raise io.UnsupportedOperation("no stream")
        return self._stream.fileno()

    def write(self, text: str, /) -> int:
        """Write `text`; return its length."""
        if self._stream is not None:
            try:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Write nowhere from now on; what is buffered goes there too, so that Python does not complain at its end."""
        lost, self._stream = self._stream, None
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor, or closed
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, lost.fileno())  # pyright: ignore[reportOptionalMemberAccess]
            os.close(nowhere)
        with contextlib.suppress(OSError, ValueError):
            print(f"warning: standard output is gone ({error}); the command goes on", file=sys.stderr, flush=True)
