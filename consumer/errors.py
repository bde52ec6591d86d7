"""The errors that this program raises on purpose, with their exit codes.

They are faults of the environment: a setting, a service, a store. A text says in one line what was expected, what came
and what to do. A fault of a message is not an exception but a value with a reason (``policy.Reason``).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import ClassVar, TypeVar

T = TypeVar("T", bound=BaseException)


def text_of(error: BaseException) -> str:
    """An exception's text, even if its ``str()`` raises, as a user's exception may."""
    try:
        return str(error)
    except BaseException as second:  # noqa: BLE001 - user code may raise anything
        return f"(its str() raises {type(second).__name__})"


def traceback_of(error: BaseException) -> str:
    """An exception's traceback with its causes, even if parts of it can't be shown."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as second:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: its traceback can't be shown: {type(second).__name__}"


def flattened(group: BaseExceptionGroup[T]) -> Iterator[T]:
    """The errors inside nested groups, in their order."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flattened(error)
        else:
            yield error


def lacks_threads(error: BaseException) -> bool:
    """Whether an exception means that no thread could be started; Python has no class for that."""
    return isinstance(error, RuntimeError) and "can't start new thread" in text_of(error)


class ExitCode(IntEnum):
    """The process's exit codes; those above 2 are from sysexits."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    TEMPORARY = 75
    UNCERTAIN = 76
    SETTINGS = 78


class ConsumerError(Exception):
    """The base of all errors that this program raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    @property
    def problems(self) -> Sequence[str]:
        """One line for each problem."""
        return (str(self),)


class UsageError(ConsumerError):
    """A command line argument is wrong."""

    exit_code = ExitCode.USAGE


class UncertainError(ConsumerError):
    """A call that must not be sent twice got no answer; it may have taken effect."""

    exit_code = ExitCode.UNCERTAIN


class SettingsError(ConsumerError):
    """The settings are wrong: one line for each problem, with the setting, what was expected and what came."""

    exit_code = ExitCode.SETTINGS

    def __str__(self) -> str:
        return "\n".join(self.args)

    @property
    def problems(self) -> Sequence[str]:
        """The lines."""
        return self.args


class PortTakenError(ConsumerError):
    """Another program listens on the admin server's port; the same start may succeed later."""

    exit_code = ExitCode.TEMPORARY


class HandlersError(SettingsError):
    """A handler file is broken, missing, duplicate or unsafe; the text names its path and line."""


class StoreError(ConsumerError):
    """A call to the store failed; its message stays in the queue.

    A retry may succeed: a full disk, a lock that another process holds for a moment, an unreachable database.
    """


class StoreBusyError(StoreError):
    """Another daemon owns this store."""

    exit_code = ExitCode.TEMPORARY


class StoreDiedError(StoreError):
    """The store's worker in this process has crashed: only a restart helps."""


class StoreSchemaError(StoreError):
    """The store has tables of another revision, or of another program, or an encoding that can't hold all text."""

    exit_code = ExitCode.SETTINGS


class NoStoreError(StoreError):
    """There is no store yet; a daemon makes it when it first runs."""


class StoreLostError(StoreError):
    """The ledger that was here is gone; a new one would handle its jobs again."""

    exit_code = ExitCode.SETTINGS


class StorePoolerError(StoreError):
    """The connection pooler in front of the database does not keep transactions together."""

    exit_code = ExitCode.SETTINGS


class StoreUnsafeError(StoreError):
    """Other users may write to the store's file or folder."""

    exit_code = ExitCode.SETTINGS


class Fault(StrEnum):
    """Why a call to the cloud failed, by what to do about it (facts/mns.md#reactions)."""

    NETWORK = "network"
    """No complete answer came; the call may have taken effect."""
    UNREADABLE = "unreadable"
    """The answer is not the service's: a proxy's page, a redirect, no request id."""
    SERVER = "server"
    """The service failed (5xx)."""
    THROTTLED = "throttled"
    """The service asks for fewer calls."""
    CLOCK = "clock"
    """This machine's clock is more than 15 minutes off."""
    CREDENTIALS = "credentials"
    """The keys are wrong, expired, or lack a right."""
    MISSING = "missing"
    """The queue does not exist."""
    GONE = "gone"
    """The receipt handle is not valid any more: the lease is lost or the message was deleted."""
    REQUEST = "request"
    """The service refuses the request itself, because of a bug here or a wrong setting; a retry fails again."""


_RETRYABLE = frozenset({Fault.NETWORK, Fault.UNREADABLE, Fault.SERVER, Fault.THROTTLED})


@dataclass(eq=False, kw_only=True)
class CloudError(ConsumerError):
    """A call to MNS or MPS failed; ``fault`` decides the reaction.

    Args:
        operation: The API's name of the call, such as ``BatchReceiveMessage``.
        target: The queue's name; for MPS the endpoint's host.
        code: The service's error code, or one of ours if none came (``ReadTimeout``, ``NotMns``).
        detail: What was expected, what came and what to do; never a secret or a whole body.
        request_id: The service's id of the call, for its support.
    """

    fault: Fault = field(kw_only=False)
    operation: str
    target: str
    code: str
    detail: str
    status: int | None = None
    request_id: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.operation} on {self.target} failed: {self.code}: {self.detail}"
            f" (status {self.status if self.status is not None else 'none'}, request id {self.request_id or 'none'})"
        )

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed soon without any change."""
        return self.fault in _RETRYABLE
