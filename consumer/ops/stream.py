"""Write log lines to wherever they go, and never let that hold up or end the daemon.

A pipe whose reader is gone, a reader that has stopped reading, a full disk: each costs lines, which are counted, and
nothing else. When a reader is slow the first line that doesn't fit waits for ``PATIENCE_MS``; if that doesn't help,
lines are dropped until it reads again. No line is ever torn: what was begun is ended first.

Elsewhere: what a line looks like, and what is said about lost lines (``ops.logs``).
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import weakref
from threading import Lock
from typing import Final, Protocol, TextIO

PATIENCE_MS: Final = 100
"""How long the daemon may be held up by a reader that has stopped, once each time it stops."""
_FIRST_FREE: Final = 3
"""The first file number that is not one of the standard streams'."""


class Stream(Protocol):
    """Takes finished lines."""

    def write(self, line: bytes) -> bool:
        """Write one line, its end included; ``False`` when it was dropped. Never raises."""


def open_stream(stream: TextIO) -> Stream:
    """The fastest safe way to write to ``stream``: straight to its file where it has one.

    By a file number of its own: a handler that closes stderr, whose number goes to the next file or socket that is
    opened, neither ends the log nor gets it into that one.
    """
    try:
        stream.flush()
        fd = fcntl.fcntl(stream.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    except (OSError, ValueError, AttributeError):
        return TextStream(stream)
    opened = FileStream(fd)
    weakref.finalize(opened, os.close, fd).atexit = False
    return opened


class TextStream:
    """Writes to a stream that lives in memory, such as a terminal's live display.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: bytes) -> bool:
        """Write one line; ``False`` when the stream is closed or fails."""
        try:
            self._stream.write(line.decode("utf-8", "replace"))
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True


class FileStream:
    """Writes to a file, a pipe, a socket or a terminal.

    Args:
        fd: Its file number; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = Lock()
        self._tail = b""
        self._stalled = False
        self._poll: select.poll | None = None
        # A file on disk is always ready. For the rest, a piece of PIPE_BUF bytes is what POSIX promises to fit
        # without blocking once poll() says that the pipe is writable.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> bool:
        """Write one line; ``False`` when it was dropped. One that has begun is ended before the next."""
        with self._lock:
            try:
                if self._tail:
                    self._tail = self._put(self._tail)
                    if self._tail:
                        return False
                rest = self._put(line)
            except OSError:
                return False
            if len(rest) == len(line):
                return False
            self._tail = rest
            return True

    def _put(self, data: bytes) -> bytes:
        """Write as much as goes without blocking; returns what is left."""
        if self._poll is None:
            written = os.write(self._fd, data)
            return data[written:]
        while data and self._writable(self._poll):
            try:
                written = os.write(self._fd, data[: select.PIPE_BUF])
            except BlockingIOError:
                self._stalled = True
                break
            except OSError:
                # Nobody reads any more: a line that has begun is not torn for anybody, and the next may find a reader.
                self._tail = b""
                raise
            data = data[written:]
        return data

    def _writable(self, poll: select.poll) -> bool:
        ready = bool(poll.poll(0) or (not self._stalled and poll.poll(PATIENCE_MS)))
        self._stalled = not ready
        return ready
