"""Rules of the errors: their exit codes, their wording, and which faults may pass by themselves."""

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
    """Each error says what the supervisor is told: 75 to try again, 78 to leave it until somebody changes something."""
    assert error.exit_code == code


def test_settings_problems_stay_apart() -> None:
    """Each problem is kept, and printed as a line of its own."""
    error = SettingsError("a: bad", "b: worse")
    assert list(error.problems) == ["a: bad", "b: worse"]
    assert str(error) == "a: bad\nb: worse"


def cloud(fault: Fault, status: int | None = None, request_id: str | None = None) -> CloudError:
    return CloudError(
        fault, operation="BatchReceiveMessage", target="q", code="C", detail="why", status=status, request_id=request_id
    )


def test_cloud_errors_say_what_failed() -> None:
    """The text names operation, target, code, detail, status and request id, or that there were none."""
    assert str(cloud(Fault.SERVER, 503, "R1")) == (
        "BatchReceiveMessage on q failed: C: why (status 503, request id R1)"
    )
    assert str(cloud(Fault.NETWORK)) == "BatchReceiveMessage on q failed: C: why (status none, request id none)"
    error = cloud(Fault.SERVER, 503, "R1")
    assert (error.fault, error.operation, error.target, error.code) == (Fault.SERVER, "BatchReceiveMessage", "q", "C")
    assert (error.detail, error.status, error.request_id, error.exit_code) == ("why", 503, "R1", ExitCode.FAILURE)


def test_which_faults_pass_by_themselves() -> None:
    """Only faults that nobody needs to repair are retryable."""
    assert {fault for fault in Fault if cloud(fault).retryable} == {
        Fault.NETWORK,
        Fault.UNREADABLE,
        Fault.SERVER,
        Fault.THROTTLED,
    }
