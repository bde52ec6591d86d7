"""The RAM actions that each call to MNS and MPS needs, and the resource that they are granted on.

The only such table. The README's least rights, the policy that ``mns-consumer check --policy`` prints, the hint beside
a refused call, and the sandbox's ``--allow`` and ``--deny`` are all made from it.

A batch call has an action of its own. Whether the action of the single call covers it is unknown, so both are named.

Source: facts/mns.md#rights, facts/iproduction.md#submit-a-job, facts/iproduction.md#query-a-job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

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

    @property
    def service(self) -> str:
        """``mns`` or ``mts``."""
        return self.actions[0].partition(":")[0]


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

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": RUN,
    "jobs run": ("QueryIProductionJob",),
    "queue stats": ("GetQueueAttributes",),
    "queue peek": ("BatchPeekMessage",),
    "queue send": ("SendMessage",),
    "dead-letters replay": ("SendMessage",),
    "submit": ("SubmitIProductionJob", "QueryIProductionJob"),
}
"""The calls of each command that reaches the cloud; ``submit`` queries only with ``--wait``."""

ALSO: Final[Mapping[str, str]] = {
    "peek": "queue peek",
    "send": "queue send",
    "replay": "dead-letters replay",
    "submit": "submit",
}
"""The words of ``mns-consumer check --also``, with the command that each stands for."""


class QueueAddress(Protocol):
    """What the resource of a right is filled in with."""

    @property
    def account(self) -> str:
        """The account's id."""

    @property
    def region(self) -> str:
        """The region's id."""

    @property
    def queue(self) -> str:
        """The queue's name."""


def policy_command(call: str) -> str:
    """The command line that prints a policy with this call's right."""
    if call in RUN:
        return "mns-consumer check --policy"
    word = next(word for word, command in ALSO.items() if call in COMMANDS[command])
    return f"mns-consumer check --policy --also {word}"


def policy(queues: Sequence[QueueAddress], calls: Iterable[str]) -> dict[str, Any]:
    """A RAM policy that grants these calls on these queues, as RAM takes it.

    Args:
        queues: The queues; at least one.
        calls: Keys of ``RIGHTS``.
    """
    actions: dict[str, list[str]] = {}
    for call in dict.fromkeys(calls):
        actions.setdefault(RIGHTS[call].resource, []).extend(RIGHTS[call].actions)
    return {
        "Version": "1",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": granted,
                "Resource": list(
                    dict.fromkeys(
                        resource.format(region=queue.region, account=queue.account, queue=queue.queue)
                        for queue in queues
                    )
                ),
            }
            for resource, granted in actions.items()
        ],
    }
