"""The service manager's notification protocol: ready, status, reload, stop, watchdog.

One datagram a message, to the socket that ``NOTIFY_SOCKET`` names. Without one, as in a terminal or a container, every
method does nothing. Nothing here blocks or raises: a service manager that does not listen misses messages, and costs
one log line.

See sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

import structlog

log = structlog.stdlib.get_logger(__name__)

_STATUS_LIMIT: Final = 500


class Notifier:
    """The daemon's side. It removes the variables, so that no child process can speak for the daemon."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        self._failing = False
        self._socket: socket.socket | None = None
        # "@" stands for the NUL byte that begins an abstract socket's name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_interval_s = _watchdog_interval_s(environ)
        """How often to call ``watchdog``, in seconds: half of what systemd allows; ``None`` without a watchdog."""
        if address.startswith(("@", "/")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0)
        elif address:
            log.warning("NOTIFY_SOCKET is no path and no @name; the service manager is not notified", address=address)

    @property
    def active(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is over."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Show one line in ``systemctl status``."""
        self._send(_status(text))

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it, also when the old settings are kept."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The stop begins."""
        self._send("STOPPING=1", _status(status))

    def watchdog(self) -> None:
        """The daemon makes progress; without this for ``WatchdogSec``, systemd restarts it."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """The start, reload or stop under way may take this much longer from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def close(self) -> None:
        """Send nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(filter(None, assignments)).encode("utf-8", "replace")
        try:
            self._socket.sendto(message, self._address)
        except (OSError, ValueError) as error:
            # A full queue, a socket that is gone, an impossible name: logged once, not at each ping.
            if not self._failing:
                log.warning("service manager not reached; it may take the daemon for hung", error=str(error))
            self._failing = True
        else:
            self._failing = False


def _status(text: str) -> str:
    # A line end would begin the next assignment.
    return f"STATUS={' '.join(text.split())[:_STATUS_LIMIT]}" if text else ""


def _watchdog_interval_s(environ: MutableMapping[str, str]) -> float | None:
    microseconds = environ.pop("WATCHDOG_USEC", "")
    if environ.pop("WATCHDOG_PID", "") not in {"", str(os.getpid())}:
        return None
    # isdecimal() alone takes other scripts' digits.
    if not (microseconds.isascii() and microseconds.isdecimal() and int(microseconds)):
        return None
    return int(microseconds) / 2_000_000
