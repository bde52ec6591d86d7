"""Tell what a service's error code asks for: one table for MNS, one for MPS.

The reaction hangs on the ``Fault`` alone (``errors``), so this is the only place where codes are known.

Source: facts/mns.md, 2 and 6; facts/iproduction.md, 2; OpenAPI's public table of common error codes for
the clock's (``InvalidTimeStamp``) and the STS token's.

Elsewhere: pacing by fault (``engine.pacing``), finding the code in an answer (``answer``, ``mps``).
"""

from __future__ import annotations

from typing import Final

from consumer.errors import Fault

_MNS: Final = {
    "MessageNotExist": Fault.GONE,
    "ReceiptHandleError": Fault.GONE,
    "QueueNotExist": Fault.MISSING,
    "TooManyRequests": Fault.THROTTLED,
    "QpsLimitExceeded": Fault.THROTTLED,
    "TimeExpired": Fault.CLOCK,
    "InvalidDateHeader": Fault.CLOCK,
    "AccessDenied": Fault.CREDENTIALS,
    "AccessDeniedByRamPolicy": Fault.CREDENTIALS,
    "InvalidAccessKeyId": Fault.CREDENTIALS,
    "SignatureDoesNotMatch": Fault.CREDENTIALS,
    "InternalError": Fault.SERVER,
    "InternalServerError": Fault.SERVER,
}

_MPS_FAMILIES: Final = {
    "Throttling": Fault.THROTTLED,
    "InvalidTimeStamp": Fault.CLOCK,
    "InvalidAccessKeyId": Fault.CREDENTIALS,
    "InvalidSecurityToken": Fault.CREDENTIALS,
    "SignatureDoesNotMatch": Fault.CREDENTIALS,
    "PermissionDenied": Fault.CREDENTIALS,
    "InvalidIdentity": Fault.CREDENTIALS,
    "InternalError": Fault.SERVER,
    "ServiceUnavailable": Fault.SERVER,
}

_FAILED: Final = 500
_BY_STATUS: Final = {401: Fault.CREDENTIALS, 403: Fault.CREDENTIALS, 408: Fault.CLOCK, 429: Fault.THROTTLED}


_RIGHTS: Final = ("AccessDenied", "PermissionDenied", "InvalidIdentity", "NoPermission", "Forbidden")


def lacks_a_right(code: str) -> bool:
    """Whether a refusal is of keys that are right, but may not do this."""
    return code.startswith(_RIGHTS)


def mns_fault(code: str, status: int) -> Fault:
    """What an error of MNS asks for: by its code, else by the HTTP status, else ``REQUEST``."""
    return _MNS.get(code) or _by_status(status)


def mps_fault(code: str, status: int) -> Fault:
    """The same for MPS, whose codes come in families: ``Throttling.User`` is one of ``Throttling``."""
    return _MPS_FAMILIES.get(code.partition(".")[0]) or _by_status(status)


def _by_status(status: int) -> Fault:
    if status >= _FAILED:
        return Fault.SERVER
    return _BY_STATUS.get(status, Fault.REQUEST)
