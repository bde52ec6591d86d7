"""Hide messages of one queue, and notice when that fails.

Renewals, retries and releases all hide a message (ChangeMessageVisibility). Without it leases run out while handlers
run, and retries come back at the wrong time: nothing is lost, but much is done twice. So its failing is an outage of
its own: two log lines, and a failing readiness check. While the queue as a whole does not answer, polling logs that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from consumer.cloud.faults import lacks_a_right
from consumer.cloud.messages import DeleteFailure, Receipt
from consumer.engine.delivery import Orders
from consumer.engine.pacing import Outage
from consumer.errors import CloudError, Fault

_SEVERAL: Final = 2
"""Calls that fail in a row until it counts: a single one is tried again, and is no news."""


class Hides:
    """The hides of one queue; deletes pass through.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log.
        suppress_log: Whether the queue's own outage is already logged.
    """

    def __init__(self, queue: Orders, name: str, *, suppress_log: Callable[[], bool] = lambda: False) -> None:
        self._queue = queue
        self._suppress_log = suppress_log
        self._failures = 0
        self._outage = Outage(
            "messages can't be hidden; leases run out while handlers run, retries come back when their lease ends",
            "messages are hidden again",
            name,
        )

    @property
    def failing(self) -> bool:
        """Whether it fails now."""
        return self._outage.on

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """See ``Orders.hide``."""
        try:
            receipt = await self._queue.hide(handle, seconds)
        except CloudError as error:
            self._note(error)
            raise
        self._failures = 0
        self._outage.over()
        return receipt

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """See ``Orders.delete``."""
        return await self._queue.delete(handles)

    def _note(self, error: CloudError) -> None:
        if error.fault is Fault.GONE:
            # The lease was lost; the call itself works.
            return
        self._failures += 1
        if lacks_a_right(error.code) or (self._failures >= _SEVERAL and not self._suppress_log()):
            self._outage.failed(error)
