"""Write the message that MPS puts into the queue when a job ends.

Keys in alphabetical order as every printed sample has them; no result, no times (facts/iproduction.md#notification).

Elsewhere: when it is sent (``jobs``), into which queue (``mps_api``).
"""

import base64
import hashlib
from collections.abc import Mapping

from consumer.job_state import JobState
from consumer.sandbox import results
from consumer.sandbox.jobs import Job
from consumer.sandbox.settings import Envelope, NotificationEncoding
from consumer.sandbox.wire import escaped

_TOPIC = "mps-events"
_SUBSCRIPTION = "to-queue"


def notification(*, function: str, job_id: str, state: str, code: str, message: str, user_data: str | None) -> str:
    """Write the notification of an ended job, as JSON.

    Args:
        function: FunctionName.
        job_id: JobId.
        state: ``Success`` or ``Fail``.
        code: ``Success``, or why it failed.
        message: Of a failure.
        user_data: Left out when None.
    """
    children: dict[str, object] = {"Code": code}
    if results.has_details(function):
        children["Details"] = []
    children["FunctionName"] = function
    children["JobId"] = job_id
    if state == JobState.SUCCESS:
        children["Message"] = "success" if results.has_details(function) else "Successful."
    else:
        children["Message"] = message
    children["State"] = state
    children["Type"] = "IProduction"
    if user_data is not None:
        children["UserData"] = user_data
    return results.compact(children)


def of_job(job: Job) -> str:
    """Write the notification of a job as it stands."""
    return notification(
        function=job.function,
        job_id=job.job_id,
        state=job.state,
        code=job.code,
        message=job.message,
        user_data=job.user_data,
    )


def carried(
    text: str,
    *,
    encoding: NotificationEncoding,
    envelope: Envelope,
    account: str,
    message_id: str,
    now_ms: int,
) -> str:
    """Encode a notification as the body of its message.

    Behind a topic the envelope is raw while the text in it is encoded; SIMPLIFIED is the bare text.

    Source: facts/mns.md#base64, facts/iproduction.md#notification, facts/iproduction.md#topic-envelopes.
    """
    inner = base64.b64encode(text.encode()).decode() if encoding == "base64" else text
    if envelope in ("none", "simplified"):
        return inner
    # Not for security: the protocol's own checksum, of Message as carried.
    digest = hashlib.md5(inner.encode(), usedforsecurity=False).hexdigest().upper()
    children = {
        "TopicOwner": account,
        "TopicName": _TOPIC,
        "Subscriber": account,
        "SubscriptionName": _SUBSCRIPTION,
        "MessageId": message_id,
        "Message": inner,
        "MessageMD5": digest,
        "MessageTag": "",
        "PublishTime": str(now_ms),
    }
    return results.compact(children) if envelope == "json" else _envelope_xml(children)


def _envelope_xml(children: Mapping[str, str]) -> str:
    inner = "".join(f"    <{name}>{escaped(text)}</{name}>\n" for name, text in children.items())
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">\n{inner}</Notification>'
    )
