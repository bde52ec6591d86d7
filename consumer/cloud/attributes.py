"""Read the attributes of a queue out of GetQueueAttributes' answer.

Source: facts: mns, 2 (GetQueueAttributes) and 3 (DlqPolicy).
"""

from __future__ import annotations

from collections.abc import Mapping

from consumer.cloud.messages import QueueAttributes
from consumer.cloud.plain_xml import local_name, parse
from consumer.cloud.wording import cut


def read_attributes(found: Mapping[str, str], body: bytes) -> QueueAttributes:
    """The attributes of a queue.

    Args:
        found: The text of each field of the answer.
        body: The answer itself, for fields that are more than text.

    Raises:
        KeyError: A field is missing.
        ValueError: A number is none.
    """
    return QueueAttributes(
        name=found["QueueName"],
        visibility_timeout_s=int(found["VisibilityTimeout"]),
        retention_s=int(found["MessageRetentionPeriod"]),
        polling_wait_s=int(found["PollingWaitSeconds"]),
        delay_s=int(found["DelaySeconds"]),
        max_message_bytes=int(found["MaximumMessageSize"]),
        active_messages=_count(found.get("ActiveMessages")),
        inactive_messages=_count(found.get("InactiveMessages")),
        delayed_messages=_count(found.get("DelayMessages")),
        created_at=int(found["CreateTime"]),
        modified_at=int(found["LastModifyTime"]),
        dlq_policy=_dlq_policy(body),
    )


def _count(text: str | None) -> int | None:
    return int(text) if text else None


def _dlq_policy(body: bytes) -> str | None:
    """The DlqPolicy as text, whatever its form: only the control plane is documented to show it."""
    for child in parse(body):
        if local_name(child) == "DlqPolicy":
            parts = [f"{local_name(part)}={part.text or ''}" for part in child]
            return cut(" ".join(parts) or child.text or "") or None
    return None
