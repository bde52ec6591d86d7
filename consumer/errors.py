"""Every way in which the program itself can fail, and what each one asks of whoever meets it.

A fault of a *message* is no exception: it is a value with a reason (``policy.Reason``), since a
message ends somewhere. What stands here are faults of the surroundings: a setting, a service, a
store. Each carries what is needed to say, in one line, what was expected, what came and what to do.

Elsewhere: how the poller paces itself by a ``Fault`` (``engine.pacing``), which exit code the
command line makes of an error (``cli.main``).
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import ClassVar


def text_of(error: BaseException) -> str:
    """What an exception says, also where its own ``str()`` raises: it may be of anybody's making."""
    try:
        return str(error)
    except BaseException as second:  # noqa: BLE001 - user code runs here; that it fails is all there is to say
        return f"(its str() raises {type(second).__name__})"


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception with its causes, also where parts of it can't be shown."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as second:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: its traceback can't be shown: {type(second).__name__}"


def lacks_threads(error: BaseException) -> bool:
    """Whether an exception says that no thread could be started: Python has no class of its own for it."""
    return isinstance(error, RuntimeError) and "can't start new thread" in text_of(error)


class ExitCode(IntEnum):
    """What the process tells its supervisor; the numbers above 2 are those of sysexits."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    TEMPORARY = 75
    UNCERTAIN = 76
    SETTINGS = 78


class ConsumerError(Exception):
    """The root of every error that this program raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE


class UsageError(ConsumerError):
    """A command line argument is not what the command takes."""

    exit_code = ExitCode.USAGE


class UncertainError(ConsumerError):
    """A call that must not be sent twice was sent and not answered: it may have had its effect."""

    exit_code = ExitCode.UNCERTAIN


class SettingsError(ConsumerError):
    """The daemon can't start as it is set up: one line for each problem found.

    Args:
        problems: Complete sentences, each with the setting's name, what was expected and what came.
    """

    exit_code = ExitCode.SETTINGS

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class PortTakenError(ConsumerError):
    """Another program listens where the admin server should; the same start may succeed later."""

    exit_code = ExitCode.TEMPORARY


class HandlersError(SettingsError):
    """A handler file is broken, missing, doubled or unsafe; the text names its path and line."""


class StoreError(ConsumerError):
    """The store did not do what was asked; the message that asked stays in its queue.

    Retryable: a full disk, a lock that another process holds for a moment, a database that went away.
    """


class StoreBusyError(StoreError):
    """Another daemon owns this store."""

    exit_code = ExitCode.TEMPORARY


class StoreDiedError(StoreError):
    """What works on the store in this process has ended by a fault of its own: only a restart helps."""


class StoreSchemaError(StoreError):
    """The store was written by a version of this program that this one doesn't understand."""

    exit_code = ExitCode.SETTINGS


class StorePoolerError(StoreError):
    """The connection pooler in front of the database does not keep transactions together."""

    exit_code = ExitCode.SETTINGS


class StoreUnsafeError(StoreError):
    """Others may write the store's file or folder."""

    exit_code = ExitCode.SETTINGS


class Fault(StrEnum):
    """Why a call to the cloud failed, told apart by what to do about it (facts/mns.md#reactions)."""

    NETWORK = "network"
    """No whole answer came: the call may or may not have had its effect."""
    UNREADABLE = "unreadable"
    """An answer came that is not one of the service's: a proxy's page, a redirect, no request id."""
    SERVER = "server"
    """The service says that it failed (5xx)."""
    THROTTLED = "throttled"
    """The service says: slower."""
    CLOCK = "clock"
    """This machine's clock is more than 15 minutes off."""
    CREDENTIALS = "credentials"
    """The keys are wrong, expired, or lack a right."""
    MISSING = "missing"
    """The queue does not exist."""
    GONE = "gone"
    """The receipt handle is no longer good: the lease is lost or the message was deleted."""
    REQUEST = "request"
    """The service refuses the request itself: a bug here or a bad setting; the same call fails again."""


_RETRYABLE = frozenset({Fault.NETWORK, Fault.UNREADABLE, Fault.SERVER, Fault.THROTTLED})


class CloudError(ConsumerError):
    """A call to MNS or MPS failed.

    Args:
        fault: The class of the failure, which decides the reaction.
        operation: The API's name of the call, such as ``BatchReceiveMessage``.
        target: What it was about: the queue's name, or the endpoint's host for MPS.
        code: The service's error code, or ours where none came (``ReadTimeout``, ``NotMns``).
        detail: What was expected, what came and what to do; never a secret, never a whole body.
        status: The HTTP status; ``None`` when no answer came.
        request_id: The service's id of the call, for its support; ``None`` when none came.
    """

    def __init__(
        self,
        fault: Fault,
        *,
        operation: str,
        target: str,
        code: str,
        detail: str,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(
            f"{operation} on {target} failed: {code}: {detail}"
            f" (status {status if status is not None else 'none'}, request id {request_id or 'none'})"
        )
        self.fault = fault
        self.operation = operation
        self.target = target
        self.code = code
        self.detail = detail
        self.status = status
        self.request_id = request_id

    @property
    def retryable(self) -> bool:
        """Whether the same call may well succeed soon, with nobody changing anything."""
        return self.fault in _RETRYABLE
