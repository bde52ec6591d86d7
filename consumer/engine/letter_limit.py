"""Hold the polls back while the store holds as many dead letters as it may.

What is at the limit stays in its queue: a message that would be set aside is given back, and nothing new is asked
for, also nothing that would succeed, since nobody knows that beforehand. Polling goes on by itself once letters were
replayed, purged or pruned.

The store counts them once a minute, and every few seconds at the limit; what this daemon stores meanwhile is added.
What other daemons on the same database store is seen at the next count, which comes sooner when this one has stored
a hundredth of the limit: several together may pass it by about that much each.

Elsewhere: who asks for room (``engine.settle``), who waits (``engine.poll``).
"""

from __future__ import annotations

import random
import time
from typing import Final

import anyio
import structlog

from consumer.engine.outcome import Hide
from consumer.engine.pacing import Outage
from consumer.engine.store_gate import StoreGate
from consumer.errors import StoreError
from consumer.ops.metrics import Metrics
from consumer.policy import LetterLimits
from consumer.store.ledger import Ledger, LettersHeld

log = structlog.stdlib.get_logger(__name__)

_COUNT_EVERY_S: Final = 60.0
_COUNT_AT_LIMIT_EVERY_S: Final = 5.0
_SHARE: Final = 0.01
_ROOM: Final = 0.95
"""The share of a limit below which polling goes on, so that it does not start and stop with every letter."""
_HIDE_S: Final = (60, 120)
"""For how long a message is hidden that there is no room for, drawn evenly between the two."""


class NoRoom(Hide):
    """What a dead letter becomes that there is no room for."""

    __slots__ = ()


class LetterLimit:
    """The limit of one store; one for all lanes.

    Args:
        ledger: The store.
        limits: How many and how large.
        metrics: Where it is shown.
        shared: Whether other daemons store letters there.
    """

    def __init__(self, ledger: Ledger, limits: LetterLimits, metrics: Metrics, *, shared: bool) -> None:
        self._ledger = ledger
        self._limits = limits
        self._shared = shared
        self._metrics = metrics
        self._counted = LettersHeld(0, 0)
        self._stored = LettersHeld(0, 0)
        """By this daemon since it last asked for a count."""
        self._pending = LettersHeld(0, 0)
        """Room that is taken for what is not known to be stored yet."""
        self._full_since = 0.0
        self._room = anyio.Event()
        self._room.set()
        self._count_now = anyio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return not self._room.is_set()

    @property
    def held(self) -> LettersHeld:
        """What the store holds, as far as is known."""
        return _sum(self._counted, self._stored, self._pending)

    async def room(self) -> None:
        """Return when there is room."""
        await self._room.wait()

    def take(self, size_bytes: int) -> bool:
        """Take room for one letter, until ``settled`` says what became of it; ``False`` when there is none."""
        if self.is_full:
            return False
        self._pending = _sum(self._pending, LettersHeld(1, size_bytes))
        self._judge()
        return True

    def settled(self, size_bytes: int) -> None:
        """The letter that room was taken for is stored, or was given up, which the next count shows."""
        self._pending = _sum(self._pending, LettersHeld(-1, -size_bytes))
        self._stored = _sum(self._stored, LettersHeld(1, size_bytes))
        if self._shared and self._share(self._stored) >= _SHARE:
            self._count_now.set()

    def adopt(self, limits: LetterLimits) -> None:
        """Hold to other limits from now on."""
        self._limits = limits
        self._judge()

    async def count(self) -> None:
        """Ask the store.

        Raises:
            StoreError: It can't be asked; the last count stands.
        """
        before = self._stored
        self._counted = await self._ledger.letters_held()
        # What was stored while it counted may be in it twice: a little too much until the next count.
        self._stored = _sum(self._stored, LettersHeld(-before.letters, -before.size_bytes))
        self._judge()

    async def run(self, gate: StoreGate) -> None:
        """Count now and again, until cancelled.

        Args:
            gate: Open while the store works.
        """
        outage = Outage("dead letters can't be counted; the last count stands", "dead letters are counted again")
        while True:
            with anyio.move_on_after(_COUNT_AT_LIMIT_EVERY_S if self.is_full else _COUNT_EVERY_S):
                await self._count_now.wait()
            await gate.passed()
            self._count_now = anyio.Event()
            try:
                await self.count()
            except StoreError as error:
                await anyio.sleep(outage.failed(error))
            else:
                outage.over()

    def _share(self, of: LettersHeld) -> float:
        return max(of.letters / self._limits.letters, of.size_bytes / self._limits.size_bytes)

    def _judge(self) -> None:
        used = self._share(self.held)
        if used >= 1 and not self.is_full:
            self._room = anyio.Event()
            self._full_since = time.monotonic()
            self._count_now.set()
            log.warning("dead letters reached their limit; polling pauses until there is room", **self._told())
        elif used <= _ROOM and self.is_full:
            seconds = round(time.monotonic() - self._full_since, 1)
            log.info("there is room for dead letters again; polling goes on", paused_seconds=seconds, **self._told())
            self._room.set()
        self._metrics.letters_stored.set(self.held.letters)
        self._metrics.letters_stored_bytes.set(self.held.size_bytes)
        self._metrics.letters_limit_ratio.set(used)
        self._metrics.letters_full.set(int(self.is_full))

    def _told(self) -> dict[str, int]:
        held, limits = self.held, self._limits
        return {
            "letters": held.letters,
            "bytes": held.size_bytes,
            "dead_letters_max": limits.letters,
            "dead_letters_max_bytes": limits.size_bytes,
        }


def _sum(*parts: LettersHeld) -> LettersHeld:
    return LettersHeld(sum(part.letters for part in parts), sum(part.size_bytes for part in parts))


def no_room() -> NoRoom:
    """Give a message back whose dead letter there is no room for."""
    return NoRoom(
        delay_s=random.randint(*_HIDE_S),  # noqa: S311 - spreads a crowd, guards nothing
        failure=None,
        why="its dead letter has no room in the store: replay or purge some, or raise dead_letters_max",
    )
