"""One message in our hands, with its own way back: the newest receipt, and whether the lease still holds.

Every renewal and every redelivery replaces the receipt and kills the old one, so the receipt lives in one place, and
one lock guards all that uses it up: renew, hide, delete.

Elsewhere: who keeps the lease (``engine.lease``), who ends it (``engine.settle``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import anyio

from consumer.cloud.messages import DeleteFailure, Message, Receipt
from consumer.engine.outcome import Cut, TimedOut
from consumer.engine.receipt_lock import ReceiptLock

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext


class Orders(Protocol):
    """What can be ordered about a message that is held: the part of a queue's client that ends need."""

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Make it visible again ``seconds`` from now; the old handle dies."""

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete up to 16; what was not deleted is returned."""


class Stage(IntEnum):
    """How far a delivery has come; only ever grows."""

    HELD = 0
    """Received; no handler has been called yet. A stop gives it back at once."""
    RUNNING = 1
    """Its handler runs. A stop waits for it."""
    SETTLING = 2
    """Its end is being written down. Nothing cuts this short but the stop deadline."""
    CLOSED = 3
    """Nothing more will be done with its lease."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A received message on its way through its life.

    Args:
        message: As received.
        receipt: The newest receipt.
        age_offset_s: The server's clock minus ours at the receipt, in seconds.
        key: Its ledger key, from the asking for it on: it is to be let go at the end.
        claimed: Whether the ledger has said that the key is ours: from then on its claim is renewed.
        stage: How far it has come.
        in_thread: Whether a plain function runs it: that can't be cut short, so its claim outlives a lost lease.
        adrift: Whether its lease is known to be lost while its plain function runs on, with its claim kept.
        cut: Why its run was cut short, if it was.
        scope: Cancels its run; set while it can be cut short.
        cancel_handler: Cancels its async handler, which then ends the run; set while one runs.
        received: The span of the receive that brought it, where traces are told.
        life: The span of its life, likewise.
    """

    message: Message
    receipt: Receipt
    age_offset_s: float = 0.0
    received_at: float = field(default_factory=time.monotonic)
    key: str | None = None
    claimed: bool = False
    stage: Stage = Stage.HELD
    in_thread: bool = False
    adrift: bool = False
    cut: Cut | TimedOut | None = None
    renew_at: float = 0.0
    doubtful: bool = False
    grace_until: float = 0.0
    # asyncio's own: anyio's takes ten times as long to make, for every message.
    lock: ReceiptLock = field(default_factory=ReceiptLock)
    scope: anyio.CancelScope | None = None
    cancel_handler: Callable[[str], None] | None = None
    received: SpanContext | None = None
    life: Span | None = None
    _age_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Plan the first renewal, and take down how old the message is."""
        self.hold(self.receipt)
        self._age_s = max(0.0, time.time() + self.age_offset_s - self.message.enqueued_at)

    def hold(self, receipt: Receipt) -> None:
        """Take a newer receipt: of a renewal, or of the same message coming back while it is here."""
        self.receipt = receipt
        self.adrift = False
        self.doubtful = False
        self.grace_until = 0.0
        now = time.monotonic()
        self.renew_at = now + max(0.0, receipt.expires_at - now) / 2

    @property
    def lost(self) -> bool:
        """Whether its lease is known to be lost and its run was cut short for that."""
        return self.cut is Cut.LEASE_LOST

    def cut_short(self, why: Cut | TimedOut) -> None:
        """Cancel its run, unless that has ended; the first reason counts.

        An async handler is cancelled once and then waited for: its run ends when it has cleaned up.
        """
        if self.cut is None and self.stage < Stage.SETTLING:
            self.cut = why
            if self.cancel_handler is not None:
                self.cancel_handler(str(why))
            elif self.scope is not None:
                self.scope.cancel(str(why))

    def abandon(self) -> None:
        """End its run without its handler, which goes on though it was cancelled."""
        if self.stage is Stage.RUNNING and self.cancel_handler is not None and self.scope is not None:
            self.cut = Cut.LEFT_RUNNING
            self.scope.cancel(str(self.cut))

    def age_s(self) -> float:
        """Seconds since MNS took the message: by MNS's clock up to the receipt, from then on by the monotonic one."""
        return self._age_s + time.monotonic() - self.received_at
