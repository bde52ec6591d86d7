"""Where log lines are written: stderr by its file, or a stream without one.

Writing never ends the daemon and blocks it for at most ``PATIENCE_MS``. A pipe whose reader is gone, a reader that has
stopped, a full disk: each costs lines, which are counted, and nothing else. No line is torn: the rest of a line is
written before the next one.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import weakref
from threading import Lock
from typing import Final, TextIO

PATIENCE_MS: Final = 100
"""The longest that a reader which stopped may block the daemon, once each time it stops."""
_FIRST_FREE: Final = 3
"""The first file number after those of the standard streams."""


def is_journal(stream: TextIO) -> bool:
    """Whether systemd's journal reads the stream: systemd names the socket that it gave. See systemd.exec(5)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def open_stream(stream: TextIO) -> FileStream | TextStream:
    """Write straight to the stream's file where it has one, by a file number of its own.

    When a handler closes stderr, its number goes to the next file or socket that is opened; the log must not follow.
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
    """A stream without a file, such as a terminal's live display."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: bytes) -> bool:
        """Write finished lines; ``False`` when the stream is closed or fails."""
        try:
            self._stream.write(line.decode("utf-8", "replace"))
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True


class FileStream:
    """A file, a pipe, a socket or a terminal, by a file number that stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = Lock()
        self._tail = b""
        self._stalled = False
        self._poll: select.poll | None = None
        # A file on disk is always ready. Elsewhere PIPE_BUF bytes fit without blocking once poll() says so (POSIX).
        # O_NONBLOCK is no way: other processes share the open file.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> bool:
        """Write finished lines; ``False`` when they were dropped. Never raises."""
        with self._lock:
            try:
                self._tail = self._put(self._tail)
                rest = line if self._tail else self._put(line)
            except OSError:
                return False
            if len(rest) == len(line):
                return False
            self._tail = rest
            return True

    def _put(self, data: bytes) -> bytes:
        """Write as much as fits without blocking; returns the rest."""
        if self._poll is None:
            return data[os.write(self._fd, data) :] if data else data
        while data and self._writable(self._poll):
            try:
                data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
            except BlockingIOError:
                self._stalled = True
                break
            except OSError:
                # The reader is gone, and with it the beginning of the line: the next reader gets whole lines.
                self._tail = b""
                raise
        return data

    def _writable(self, poll: select.poll) -> bool:
        self._stalled = not (poll.poll(0) or (not self._stalled and poll.poll(PATIENCE_MS)))
        return not self._stalled
