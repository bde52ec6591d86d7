"""The errors: their exit codes, their texts, and which faults a retry may pass."""

from __future__ import annotations

import pytest

from consumer.errors import (
    CloudError,
    ConsumerError,
    ExitCode,
    Fault,
    HandlersError,
    PortTakenError,
    SettingsError,
    StoreBusyError,
    StoreError,
    StoreSchemaError,
    StoreUnsafeError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConsumerError("x"), 1),
        (UsageError("x"), 2),
        (SettingsError("x"), 78),
        (HandlersError("x"), 78),
        (PortTakenError("x"), 75),
        (StoreError("x"), 1),
        (StoreBusyError("x"), 75),
        (StoreSchemaError("x"), 78),
        (StoreUnsafeError("x"), 78),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exit_codes(error: ConsumerError, code: int) -> None:
    """Each error has its exit code: 75 asks the supervisor for another start, 78 for none without a change."""
    assert error.exit_code == code


def test_settings_problems_stay_apart() -> None:
    """Each problem is kept apart, and printed as its own line."""
    error = SettingsError("a: bad", "b: worse")
    assert list(error.problems) == ["a: bad", "b: worse"]
    assert str(error) == "a: bad\nb: worse"


def cloud(fault: Fault, status: int | None = None, request_id: str | None = None) -> CloudError:
    return CloudError(
        fault, operation="BatchReceiveMessage", target="q", code="C", detail="why", status=status, request_id=request_id
    )


def test_cloud_errors_say_what_failed() -> None:
    """The text has operation, target, code, detail, status and request id, or says that there are none."""
    assert str(cloud(Fault.SERVER, 503, "R1")) == (
        "BatchReceiveMessage on q failed: C: why (status 503, request id R1)"
    )
    assert str(cloud(Fault.NETWORK)) == "BatchReceiveMessage on q failed: C: why (status none, request id none)"
    error = cloud(Fault.SERVER, 503, "R1")
    assert (error.fault, error.operation, error.target, error.code) == (Fault.SERVER, "BatchReceiveMessage", "q", "C")
    assert (error.detail, error.status, error.request_id, error.exit_code) == ("why", 503, "R1", ExitCode.FAILURE)


def test_which_faults_are_retryable() -> None:
    """Only faults that may end without a change are retryable."""
    assert {fault for fault in Fault if cloud(fault).retryable} == {
        Fault.NETWORK,
        Fault.UNREADABLE,
        Fault.SERVER,
        Fault.THROTTLED,
    }
