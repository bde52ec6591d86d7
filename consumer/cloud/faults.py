"""The services' error codes: which ``Fault`` each is, and what an operator has to do about it.

The daemon reacts to the ``Fault`` alone. The operator reacts to the code: a missing right, a service that
is not opened and a quota need different steps although the daemon reacts alike.

Source: facts/mns.md#error-codes, facts/mns.md#reactions, facts/iproduction.md#api-error-codes. The codes for the
clock (``InvalidTimeStamp``) and the STS token are those of OpenAPI's public table of common error codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consumer.errors import CloudError, Fault
from consumer.rights import RIGHTS, ram_policy_command

_MNS: Final = {
    "MessageNotExist": Fault.GONE,
    "ReceiptHandleError": Fault.GONE,
    "QueueNotExist": Fault.MISSING,
    "TooManyRequests": Fault.THROTTLED,
    "QpsLimitExceeded": Fault.THROTTLED,
    "TimeExpired": Fault.CLOCK,
    "InvalidDateHeader": Fault.CLOCK,
    "InvalidAccessKeyId": Fault.CREDENTIALS,
    "SignatureDoesNotMatch": Fault.CREDENTIALS,
    "InternalError": Fault.SERVER,
    "InternalServerError": Fault.SERVER,
}

_MPS: Final = {
    # Of the family PermissionDenied, but the keys are not the cause: fewer jobs help.
    "PermissionDenied.ResourceQuotaExceed": Fault.THROTTLED,
    "Throttling": Fault.THROTTLED,
    "RequestsTooFrequent": Fault.THROTTLED,
    "InvalidTimeStamp": Fault.CLOCK,
    "InvalidAccessKeyId": Fault.CREDENTIALS,
    "InvalidSecurityToken": Fault.CREDENTIALS,
    "MissingSecurityToken": Fault.CREDENTIALS,
    "SignatureDoesNotMatch": Fault.CREDENTIALS,
    "PermissionDenied": Fault.CREDENTIALS,
    "InvalidIdentity": Fault.CREDENTIALS,
    "InvalidParameter": Fault.REQUEST,
    "InvalidAction": Fault.REQUEST,
    "InternalError": Fault.SERVER,
    "ServiceUnavailable": Fault.SERVER,
}
"""By the beginning of the code, whatever the status; the first that fits counts."""

_FAILED: Final = 500
_BY_STATUS: Final = {401: Fault.CREDENTIALS, 403: Fault.CREDENTIALS, 408: Fault.CLOCK, 429: Fault.THROTTLED}

_RIGHTS: Final = ("AccessDenied", "PermissionDenied", "InvalidIdentity", "NoPermission", "Forbidden")

_SHOWN_CHARS: Final = 200

_ADVICE: Final[Mapping[str, str]] = {
    "InvalidIdentity.ServiceDisabled": "MPS is not opened in this account, a bill is overdue, or the role "
    "AliyunMTSDefaultRole is not granted: see to all three in the MPS console",
    "PermissionDenied.ResourceAccess": "MPS's own service role may not use the bucket: let AliyunMTSDefaultRole read "
    "the input's bucket and write the output's; the rights of these keys are not the cause",
    "PermissionDenied.ResourceQuotaExceed": "a quota of the account is used up: wait until jobs have ended, or raise "
    "the quota in the console",
    "InvalidParameter.FunctionNotSupported": "correct the FunctionName; `mns-consumer functions` lists those that are "
    "documented",
    "InvalidParameter.JobNotFound": "check the JobId and that the job was submitted with this account in this region",
    "InvalidAction.NotFound": "this is not an endpoint of MPS: correct mps_endpoint, or endpoint",
    "InvalidAccessKeyId": "check the AccessKey id: it does not exist or is disabled",
    "InvalidSecurityToken": "the STS token is wrong or has expired: give a new one with the keys that belong to it",
    "MissingSecurityToken": "these are temporary keys and their STS token is missing: set security_token",
    "SignatureDoesNotMatch": "check the AccessKey secret: it does not belong to this AccessKey id",
}
"""What to do, by the beginning of the code; for missing rights ``RIGHTS`` has the answer."""

_REFUSALS: Final = frozenset({Fault.THROTTLED, Fault.CLOCK, Fault.CREDENTIALS, Fault.MISSING, Fault.REQUEST})
"""The service refused, or there were no keys to sign with."""
_NOT_CONNECTED: Final = frozenset(
    {"ConnectRefused", "ConnectFailed", "ConnectTimeout", "NameNotFound", "CertificateNotTrusted", "TlsFailed"}
)
"""No connection was made, so nothing was sent. A TLS connection that breaks later is ``ConnectionLost``."""


def lacks_a_right(code: str) -> bool:
    """Whether the service refuses valid keys for a missing right."""
    return code.startswith(_RIGHTS)


def is_about_the_job(code: str) -> bool:
    """Whether MPS refuses a query because of its JobId, the only parameter that a query has."""
    if code.startswith("InvalidParameter.FunctionNotSupported"):
        return False
    return code.startswith("InvalidParameter") or "JobId" in code


def surely_not_sent(error: CloudError) -> bool:
    """Whether a failed call certainly had no effect; unknown after a 5xx, a broken connection or a strange answer."""
    return error.fault in _REFUSALS or error.code in _NOT_CONNECTED


def mns_fault(code: str, status: int) -> Fault:
    """The fault of an error of MNS: by its code, else by the HTTP status, else ``REQUEST``."""
    if code in _MNS:
        return _MNS[code]
    return Fault.CREDENTIALS if lacks_a_right(code) else _by_status(status)


def mps_fault(code: str, status: int) -> Fault:
    """The same for MPS, whose codes come in families: ``Throttling.User`` is one of ``Throttling``."""
    for beginning, fault in _MPS.items():
        if code.startswith(beginning):
            return fault
    return Fault.CREDENTIALS if lacks_a_right(code) else _by_status(status)


def advice(operation: str, fault: Fault, code: str, denied: str = "") -> str:
    """What to do about a refusal of the service; ``""`` where its code does not show it.

    ``denied`` is the RAM action that the service itself names as missing.
    """
    for beginning, text in _ADVICE.items():
        if code.startswith(beginning):
            return text
    if fault is not Fault.CREDENTIALS or operation not in RIGHTS:
        return ""
    right = RIGHTS[operation]
    needed = denied or " and ".join(right.actions)
    text = f"grant {needed} to the user or role of these keys; `{ram_policy_command(operation)}` prints the policy"
    if not lacks_a_right(code):
        return f"check the keys, or {text}"
    if code == "AccessDenied" and right.service == "mns":
        text += "; MNS also answers AccessDenied when the account or the region in the NotifyUrl is wrong"
    return text


def cut(text: str, limit: int = _SHOWN_CHARS) -> str:
    """Foreign text for one line of a log: printable, at most ``limit`` characters."""
    # Twice the limit bounds the work on a megabyte of foreign text.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * limit]).split())
    return line if len(line) <= limit and len(text) <= 2 * limit else f"{line[:limit]}..."


def describe(data: bytes) -> str:
    """A foreign body in a few words; its text is never shown, it may hold anything."""
    start = data[:256].lstrip().lower()
    if not start:
        return "an empty body"
    if start.startswith((b"<!doctype html", b"<html")):
        return f"an HTML page of {len(data)} bytes"
    if start.startswith((b"{", b"[")):
        return f"JSON of {len(data)} bytes"
    return f"{len(data)} bytes"


def _by_status(status: int) -> Fault:
    if status >= _FAILED:
        return Fault.SERVER
    return _BY_STATUS.get(status, Fault.REQUEST)
