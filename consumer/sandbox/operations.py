"""Name the operations of both services, as faults, counts and logs know them."""

from typing import Final

QUEUE_OPERATIONS: Final = (
    "CreateQueue",
    "SetQueueAttributes",
    "GetQueueAttributes",
    "DeleteQueue",
    "ListQueue",
    "SendMessage",
    "BatchSendMessage",
    "ReceiveMessage",
    "BatchReceiveMessage",
    "PeekMessage",
    "BatchPeekMessage",
    "DeleteMessage",
    "BatchDeleteMessage",
    "ChangeMessageVisibility",
)
JOB_OPERATIONS: Final = ("SubmitIProductionJob", "QueryIProductionJob")
UNKNOWN: Final = "Unknown"

GROUPS: Final = {
    "mns": frozenset(QUEUE_OPERATIONS),
    "mps": frozenset(JOB_OPERATIONS),
    "send": frozenset({"SendMessage", "BatchSendMessage"}),
    "receive": frozenset({"ReceiveMessage", "BatchReceiveMessage"}),
    "peek": frozenset({"PeekMessage", "BatchPeekMessage"}),
    "delete": frozenset({"DeleteMessage", "BatchDeleteMessage"}),
    "hide": frozenset({"ChangeMessageVisibility"}),
    "submit": frozenset({"SubmitIProductionJob"}),
    "query": frozenset({"QueryIProductionJob"}),
}
"""Short names for several operations at once, in the selection of a fault."""


def expanded(names: tuple[str, ...]) -> frozenset[str]:
    """Turn operation and group names into operations; none at all means all.

    Raises:
        ValueError: A name that is neither.
    """
    chosen: set[str] = set()
    for name in names:
        if name in GROUPS:
            chosen |= GROUPS[name]
        elif name in QUEUE_OPERATIONS or name in JOB_OPERATIONS or name == UNKNOWN:
            chosen.add(name)
        else:
            known = ", ".join((*GROUPS, *QUEUE_OPERATIONS, *JOB_OPERATIONS))
            raise ValueError(f"unknown operation '{name}'; expected one of {known}")
    return frozenset(chosen) or frozenset((*QUEUE_OPERATIONS, *JOB_OPERATIONS, UNKNOWN))
