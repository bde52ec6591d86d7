"""The RAM actions that each call to MNS and MPS needs, and the resource that they are granted on.

The only such table. The README's least rights, the policy that ``mns-consumer check --policy`` prints, the hint beside
a refused call, and the sandbox's ``--allow`` and ``--deny`` are all made from it.

A batch call has an action of its own. Whether the action of the single call covers it is unknown, so both are named.

Source: facts: mns, 5 (rights); iproduction, 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MESSAGES: Final = "acs:mns:{region}:{account}:/queues/{queue}/messages"
"""The messages of one queue."""
QUEUE: Final = "acs:mns:{region}:{account}:/queues/{queue}"
"""The queue itself."""
ANY: Final = "*"
"""MPS has no narrower resource for its jobs."""


@dataclass(frozen=True, slots=True)
class Right:
    """What one call needs.

    Args:
        actions: The RAM actions, all of which must be granted.
        resource: What they are granted on, with ``{region}``, ``{account}`` and ``{queue}`` to be filled in.
    """

    actions: tuple[str, ...]
    resource: str


RIGHTS: Final[Mapping[str, Right]] = {
    "BatchReceiveMessage": Right(("mns:BatchReceiveMessage", "mns:ReceiveMessage"), MESSAGES),
    "BatchDeleteMessage": Right(("mns:BatchDeleteMessage", "mns:DeleteMessage"), MESSAGES),
    "ChangeMessageVisibility": Right(("mns:ChangeMessageVisibility",), MESSAGES),
    "GetQueueAttributes": Right(("mns:GetQueueAttributes",), QUEUE),
    "QueryIProductionJob": Right(("mts:QueryIProductionJob",), ANY),
    "BatchPeekMessage": Right(("mns:BatchPeekMessage", "mns:PeekMessage"), MESSAGES),
    "SendMessage": Right(("mns:SendMessage",), MESSAGES),
    "SubmitIProductionJob": Right(("mts:SubmitIProductionJob",), ANY),
}
"""Each call that this program makes, by the API's name for it."""

RUN: Final = (
    "BatchReceiveMessage",
    "BatchDeleteMessage",
    "ChangeMessageVisibility",
    "GetQueueAttributes",
    "QueryIProductionJob",
)
"""The calls of the daemon. Without GetQueueAttributes it works with the default retention of a queue."""
