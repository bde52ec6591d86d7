"""What ``check`` finds out about one queue: keys, reachability, attributes, and each right that ``run`` needs.

A right is tried without touching a message, by a call that names something that does not exist. A service checks rights
before it looks for what a call names (inferred), so any answer about that thing shows that the right is there:

    BatchDeleteMessage        a receipt handle of the real shape that MNS never gave out: MessageNotExist
    ChangeMessageVisibility   the same handle
    QueryIProductionJob       a JobId of zeros: an answer without a job, or InvalidParameter
    SubmitIProductionJob      a FunctionName of no algorithm: InvalidParameter, so no job is made (only when asked for)
    BatchPeekMessage          harmless by itself (only when asked for)

BatchReceiveMessage and SendMessage have no such form: they are never tried, and that is reported.

Source: facts/mns.md#receipt-handles, facts/mns.md#rights, facts/mns.md#order-of-checks,
facts/iproduction.md#api-error-codes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from consumer.cli.findings import Finding, bad, explained, good, warning
from consumer.cloud import faults
from consumer.cloud.clients import Clients, open_clients
from consumer.cloud.messages import QueueAttributes
from consumer.config import QueueSettings, Settings
from consumer.errors import CloudError, ExitCode, Fault, SettingsError
from consumer.rights import ALSO, COMMANDS, RIGHTS, RUN

NO_HANDLE: Final = "8-" + "0" * 34
NO_JOB: Final = "0" * 32
NO_FUNCTION: Final = "NoSuchFunction"
LEAST_VISIBILITY_S: Final = 10
_LEAST_RETENTION_S: Final = 3600

_SAME_FOR_ALL: Final = frozenset({Fault.NETWORK, Fault.UNREADABLE, Fault.CLOCK, Fault.MISSING, Fault.CREDENTIALS})
"""Faults that every call to this queue meets, unless it is a single right that is missing."""
_NAMES: Final = {
    "BatchReceiveMessage": "right to receive",
    "BatchDeleteMessage": "right to delete",
    "ChangeMessageVisibility": "right to hide",
    "GetQueueAttributes": "right to read attributes",
    "QueryIProductionJob": "right to query jobs",
    "BatchPeekMessage": "right to peek",
    "SendMessage": "right to send",
    "SubmitIProductionJob": "right to submit",
}


async def queue_findings(settings: Settings, lane: QueueSettings, also: Collection[str] = ()) -> AsyncIterator[Finding]:
    """Check one queue, and MPS with its keys.

    Args:
        settings: The settings.
        lane: The queue's own.
        also: Words of ``rights.ALSO``: rights to try beyond those of ``run``.
    """
    queue = lane.url.identity
    for finding in _unencrypted(lane):
        yield finding
    try:
        async with open_clients(lane, ca_file=settings.ca_file) as clients:
            try:
                await clients.credentials.keys()
            except CloudError as error:
                yield bad("credentials", explained(error), queue)
                return
            yield good("credentials", "found", queue)
            failed, attributes = await _attributes_of(clients)
            if attributes is not None:
                for finding in _of_attributes(settings, lane, attributes):
                    yield finding
            if failed is not None:
                yield _unread(failed, queue)
            reached = failed is None or faults.lacks_a_right(failed.code) or failed.fault not in _SAME_FOR_ALL
            for call in dict.fromkeys([*RUN, *(call for word in also for call in COMMANDS[ALSO[word]])]):
                if call != "GetQueueAttributes":
                    yield await _right(call, lane, clients, reached=reached)
    except SettingsError as error:
        for problem in error.problems:
            yield bad("settings", problem, queue, ExitCode.SETTINGS)


def _unencrypted(lane: QueueSettings) -> Iterator[Finding]:
    for setting, endpoint in dict.fromkeys((("endpoint", lane.endpoint), ("mps_endpoint", lane.mps_endpoint))):
        parts = urlsplit(endpoint)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            text = f"{endpoint} is not encrypted, so anybody on the way can read and change messages; use https://"
            yield warning(setting, text, lane.url.identity)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _attributes_of(clients: Clients) -> tuple[CloudError | None, QueueAttributes | None]:
    try:
        return None, await clients.queue.attributes()
    except CloudError as error:
        return error, None


def _unread(error: CloudError, queue: str) -> Finding:
    if faults.lacks_a_right(error.code):
        without = "without it the daemon works with MNS's default retention of 4 days"
        return warning(_NAMES["GetQueueAttributes"], f"{explained(error)}; {without}", queue)
    return bad("queue", explained(error), queue)


def _of_attributes(settings: Settings, lane: QueueSettings, attributes: QueueAttributes) -> Iterator[Finding]:
    queue = lane.url.identity
    waiting = "unknown" if attributes.active_messages is None else str(attributes.active_messages)
    yield good("queue", f"reached at {lane.endpoint}, {waiting} message(s) waiting", queue)
    yield _visibility(queue, attributes.visibility_timeout_s)
    yield _retention(settings, queue, attributes.retention_s)
    policy = attributes.dlq_policy
    if policy and not re.search(r"enabled\W*false", policy, re.IGNORECASE):
        yield warning(
            "DlqPolicy",
            f"the queue has a dead-letter policy of its own ({policy}): after MaxReceiveCount receives MNS moves a"
            " message away, also one that is to be retried; remove the policy, or set max_failures below its count",
            queue,
        )


def _visibility(queue: str, seconds: int) -> Finding:
    what = "visibility timeout"
    if seconds < LEAST_VISIBILITY_S:
        text = f"{seconds} s; expected at least {LEAST_VISIBILITY_S} s, or a lease is lost before it is renewed"
        return bad(what, text, queue)
    return good(what, f"{seconds} s, renewed while a handler runs", queue)


def _retention(settings: Settings, queue: str, seconds: int) -> Finding:
    least_s = max(_LEAST_RETENTION_S, round(2 * settings.retry_cap_s))
    if seconds >= least_s:
        return good("retention", f"{seconds} s", queue)
    return bad(
        "retention",
        f"{seconds} s; expected at least {least_s} s (twice retry_cap_s), since MNS drops older messages silently;"
        " raise the queue's MessageRetentionPeriod or lower retry_cap_s",
        queue,
    )


async def _right(call: str, lane: QueueSettings, clients: Clients, *, reached: bool) -> Finding:
    """Try one right, or say why it is not tried."""
    what, queue = _NAMES[call], lane.url.identity
    needs = " and ".join(RIGHTS[call].actions)
    is_mps = RIGHTS[call].service == "mts"
    trial = _TRIALS.get(call)
    if trial is None:
        effect = "take" if call == "BatchReceiveMessage" else "send"
        return warning(what, f"not tried, since that would {effect} a message; it needs {needs}", queue)
    if not (reached or is_mps):
        return warning(what, f"not tried, since the queue could not be asked; it needs {needs}", queue)
    try:
        accepted = await trial(clients)
    except CloudError as error:
        is_open = call == "SubmitIProductionJob" and not faults.surely_not_sent(error)
        return bad(what, f"{explained(error)}{'; a job may have been made' if is_open else ''}", queue)
    if accepted:
        return warning(what, accepted, queue)
    return good(what, f"given, by MPS at {lane.mps_endpoint}" if is_mps else "given", queue)


async def _try_delete(clients: Clients) -> str:
    try:
        failures = await clients.queue.delete([NO_HANDLE])
    except CloudError as error:
        if error.fault is not Fault.GONE:
            raise
        return ""
    for failure in failures:
        if not failure.gone:
            operation, fault = "BatchDeleteMessage", faults.mns_fault(failure.code, 500)
            to_do = faults.advice(operation, fault, failure.code)
            detail = f"{failure.detail}{f'; {to_do}' if to_do else ''}"
            raise CloudError(fault, operation=operation, target=clients.queue.name, code=failure.code, detail=detail)
    return ""


async def _try_hide(clients: Clients) -> str:
    try:
        await clients.queue.hide(NO_HANDLE, 1)
    except CloudError as error:
        if error.fault is not Fault.GONE:
            raise
    return ""


async def _try_query(clients: Clients) -> str:
    try:
        await clients.mps.query(NO_JOB)
    except CloudError as error:
        if error.fault is not Fault.REQUEST or not faults.is_about_the_job(error.code):
            raise
    return ""


async def _try_peek(clients: Clients) -> str:
    await clients.queue.peek(1)
    return ""


async def _try_submit(clients: Clients) -> str:
    try:
        submitted = await clients.mps.submit(function=NO_FUNCTION, params="{}")
    except CloudError as error:
        if error.fault is not Fault.REQUEST or not error.code.startswith("InvalidParameter"):
            raise
        return ""
    return (
        f"given, but MPS accepted the FunctionName {NO_FUNCTION!r}, which no algorithm has: job {submitted.job_id} was"
        " made and may be billed; no message will say that it ended"
    )


_TRIALS: Final[Mapping[str, Callable[[Clients], Awaitable[str]]]] = {
    "BatchDeleteMessage": _try_delete,
    "ChangeMessageVisibility": _try_hide,
    "QueryIProductionJob": _try_query,
    "BatchPeekMessage": _try_peek,
    "SubmitIProductionJob": _try_submit,
}
"""Each ends with a warning to report, or ``""`` when the right is given; raises ``CloudError`` otherwise."""
