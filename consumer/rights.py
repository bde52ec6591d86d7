"""The RAM actions that each call to MNS and MPS needs, and the resource that they are granted on.

The documentation's least rights, the policy of ``mns-consumer check --policy``, and the hint in the error of a denied
call are all derived from this table. The sandbox has its own; a test compares them.

A batch call has its own action. Whether the action of the single call covers it is unknown, so both are listed.

Source: facts/mns.md#rights, facts/iproduction.md#submit-a-job, facts/iproduction.md#query-a-job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from consumer.notify_url import NotifyUrl

MESSAGES: Final = "acs:mns:{region}:{account}:/queues/{queue}/messages"
"""The messages of one queue."""
QUEUE: Final = "acs:mns:{region}:{account}:/queues/{queue}"
"""The queue itself."""
ANY: Final = "*"
"""MPS has no narrower resource for its jobs."""


@dataclass(frozen=True, slots=True)
class Right:
    """The RAM actions of one call, all needed, and their resource with ``{region}``, ``{account}``, ``{queue}``."""

    name: str
    actions: tuple[str, ...]
    resource: str

    @property
    def service(self) -> str:
        """``mns`` or ``mts``."""
        return self.actions[0].partition(":")[0]


RIGHTS: Final[Mapping[str, Right]] = {
    "BatchReceiveMessage": Right("right to receive", ("mns:BatchReceiveMessage", "mns:ReceiveMessage"), MESSAGES),
    "BatchDeleteMessage": Right("right to delete", ("mns:BatchDeleteMessage", "mns:DeleteMessage"), MESSAGES),
    "ChangeMessageVisibility": Right("right to hide", ("mns:ChangeMessageVisibility",), MESSAGES),
    "GetQueueAttributes": Right("right to read attributes", ("mns:GetQueueAttributes",), QUEUE),
    "QueryIProductionJob": Right("right to query jobs", ("mts:QueryIProductionJob",), ANY),
    "BatchPeekMessage": Right("right to peek", ("mns:BatchPeekMessage", "mns:PeekMessage"), MESSAGES),
    "SendMessage": Right("right to send", ("mns:SendMessage",), MESSAGES),
    "SubmitIProductionJob": Right("right to submit", ("mts:SubmitIProductionJob",), ANY),
}
"""The calls of this program, by their API names."""

RUN: Final = (
    "BatchReceiveMessage",
    "BatchDeleteMessage",
    "ChangeMessageVisibility",
    "GetQueueAttributes",
    "QueryIProductionJob",
)
"""The calls of the daemon. Without GetQueueAttributes it assumes the default retention."""

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": RUN,
    "jobs run": ("QueryIProductionJob",),
    "queue stats": ("GetQueueAttributes",),
    "queue peek": ("BatchPeekMessage",),
    "queue send": ("SendMessage",),
    "dead-letters replay": ("SendMessage",),
    "submit": ("SubmitIProductionJob", "QueryIProductionJob"),
}
"""The calls of each command; ``submit`` queries only with ``--wait``."""


class Also(StrEnum):
    """The values of ``mns-consumer check --also``: rights beyond those of ``run``."""

    PEEK = "peek"
    SEND = "send"
    REPLAY = "replay"
    SUBMIT = "submit"


ALSO: Final[Mapping[Also, str]] = {
    Also.PEEK: "queue peek",
    Also.SEND: "queue send",
    Also.REPLAY: "dead-letters replay",
    Also.SUBMIT: "submit",
}
"""The command that each stands for."""


def ram_policy_command(call: str) -> str:
    """The command that prints a RAM policy with this call's right."""
    if call in RUN:
        return "mns-consumer check --policy"
    word = next(word for word, command in ALSO.items() if call in COMMANDS[command])
    return f"mns-consumer check --policy --also {word}"


def ram_policy(queues: Sequence[NotifyUrl], calls: Iterable[str]) -> dict[str, Any]:
    """A RAM policy, as a JSON object, that grants these calls (keys of ``RIGHTS``) on these queues, at least one."""
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
