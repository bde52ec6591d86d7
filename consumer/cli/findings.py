"""What ``mns-consumer check`` finds: its three levels, and how each finding is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from consumer.cloud import faults
from consumer.errors import CloudError, ExitCode, Fault


class Level(StrEnum):
    """How good a finding is; only ``BAD`` changes the exit code."""

    GOOD = "ok"
    WARNING = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of ``check``.

    Args:
        level: Good, warning or bad.
        what: What was checked.
        text: What came, and for anything but a good one what to do.
        queue: ``ACCOUNT/REGION/NAME`` where it is about one queue.
        code: The exit code that a bad one asks for.
    """

    level: Level
    what: str
    text: str
    queue: str | None = None
    code: ExitCode = ExitCode.OK

    @property
    def line(self) -> str:
        """The finding without its level, as a person reads it."""
        place = f"{self.queue.rpartition('/')[2]}, " if self.queue else ""
        return f"{place}{self.what}: {self.text}"

    def fields(self) -> dict[str, Any]:
        """The finding as ``--json`` prints it."""
        return {
            "level": self.level.value,
            "queue": self.queue,
            "what": self.what,
            "text": self.text,
            "exit_code": int(self.code),
        }


_TO_DO: Final = {
    Fault.NETWORK: "see that this machine reaches the address (proxy, firewall, endpoint of the right network)",
    Fault.UNREADABLE: "see that the endpoint is the service's own and no proxy answers in its place",
    Fault.SERVER: "the service fails; try again soon",
    Fault.THROTTLED: "this account sends too many requests; try again soon",
    Fault.CLOCK: "set this machine's clock right",
    Fault.MISSING: "create the queue, or correct its name, account or region in the NotifyUrl",
}
"""What to do where the error itself does not say it (``faults.advice``)."""


def good(what: str, text: str, queue: str | None = None) -> Finding:
    """All is well."""
    return Finding(Level.GOOD, what, text, queue)


def warning(what: str, text: str, queue: str | None = None) -> Finding:
    """``run`` works; something is to be known or could not be checked."""
    return Finding(Level.WARNING, what, text, queue)


def bad(what: str, text: str, queue: str | None = None, code: ExitCode = ExitCode.FAILURE) -> Finding:
    """``run`` does not work."""
    return Finding(Level.BAD, what, text, queue, code)


def explained(error: CloudError) -> str:
    """An error of a service with what to do."""
    known = faults.advice(error.operation, error.fault, error.code)
    to_do = "" if known else _TO_DO.get(error.fault, "")
    return f"{error}; {to_do}" if to_do else str(error)
