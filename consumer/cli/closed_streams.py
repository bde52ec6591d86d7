"""Keep a word for the user where stdin, stdout or stderr were closed before the program started.

A file number that is free goes to the next file that is opened: what a library writes to stderr would then be written
into the store. And without stderr an error would end the program in silence.
"""

from __future__ import annotations

import io
import os
import sys
import syslog

_STANDARD_STREAMS = 3


class SystemLog(io.TextIOBase):
    """Lines for the system's log, where nothing else is left."""

    def write(self, text: str) -> int:
        """Send each line that is not empty."""
        for line in text.splitlines():
            if line.strip():
                syslog.syslog(syslog.LOG_ERR, f"mns-consumer: {line}")
        return len(text)


def replace_closed_streams() -> None:
    """Lead free file numbers below 3 nowhere, and errors to stdout or to the system's log when stderr is closed."""
    for descriptor in range(_STANDARD_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given out: this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = sys.stdout if sys.stdout is not None else SystemLog()
