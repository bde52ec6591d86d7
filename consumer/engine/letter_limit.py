"""Pause polling while the store holds as many dead letters as it may.

At the limit messages stay in their queue: one that would be set aside is hidden again, and nothing new is asked for,
since whether it would succeed is not known beforehand. Polling resumes once letters were replayed, purged or pruned.

The store counts its letters every 15 seconds, and every few seconds at the limit; what this process stores meanwhile is
added. What other processes store in the same database is seen at the next count, which comes sooner when this one has
stored a hundredth of the limit: several together may exceed it by about that much each.
"""

from __future__ import annotations

import random
import time
from typing import Final

import anyio
import structlog

from consumer.config import Policy
from consumer.engine.breaker import Breaker
from consumer.engine.outcome import RetryLater
from consumer.engine.store_access import StoreAccess
from consumer.errors import StoreError
from consumer.ops.metrics import Metrics
from consumer.store.ledger import LettersHeld

log = structlog.stdlib.get_logger(__name__)

_COUNT_EVERY_S: Final = 15.0
_COUNT_AT_LIMIT_EVERY_S: Final = 5.0
_COUNT_AFTER_SHARE: Final = 0.01
_RESUME_BELOW: Final = 0.95
"""The share of a limit below which polling resumes, so that it does not stop and start with every letter."""
_HIDE_S: Final = (60, 120)
"""How long a message is hidden that there is no room for: a random time between the two."""


class LetterLimit:
    """The limit of one store; one for all queues.

    Args:
        store: The store.
        policy: How many dead letters the store may hold, and how many bytes.
        metrics: Where both are shown.
        shared: Whether other processes store letters there.
    """

    def __init__(self, store: StoreAccess, policy: Policy, metrics: Metrics, *, shared: bool) -> None:
        self._store = store
        self._policy = policy
        self._shared = shared
        self._metrics = metrics
        self._counted = LettersHeld(0, 0)
        self._stored = LettersHeld(0, 0)
        """By this process since it last asked for a count."""
        self._reserved = LettersHeld(0, 0)
        """Room for letters that are being stored."""
        self._full_since = 0.0
        self._has_room = anyio.Event()
        self._has_room.set()
        self._count_now = anyio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return not self._has_room.is_set()

    @property
    def held(self) -> LettersHeld:
        """What the store holds, as far as is known."""
        return _sum(self._counted, self._stored, self._reserved)

    async def wait_for_room(self) -> None:
        """Return when there is room."""
        await self._has_room.wait()

    def take(self, size_bytes: int) -> bool:
        """Reserve room for one letter until ``settled``; ``False`` when there is none."""
        if self.is_full:
            return False
        self._reserved = _sum(self._reserved, LettersHeld(1, size_bytes))
        self._judge()
        return True

    def settled(self, size_bytes: int) -> None:
        """The letter that room was reserved for is stored, or was given up, which the next count shows."""
        self._reserved = _sum(self._reserved, LettersHeld(-1, -size_bytes))
        self._stored = _sum(self._stored, LettersHeld(1, size_bytes))
        if self._shared and self._share(self._stored) >= _COUNT_AFTER_SHARE:
            self._count_now.set()

    def adopt(self, policy: Policy) -> None:
        """Use the limits of another policy from now on."""
        self._policy = policy
        self._judge()

    async def count(self) -> None:
        """Count in the store, and show by queue and reason what waits there.

        Raises:
            StoreError: It can't be asked; the last count stands.
        """
        before = self._stored
        groups = await self._store.ledger.waiting()
        self._counted = LettersHeld.of(groups)
        # A queue's identity is account/region/name; the metrics know it by its name.
        self._metrics.set_letters_waiting(
            (group.queue.rpartition("/")[2], group.reason, group.count, group.oldest_at) for group in groups
        )
        # What was stored during the count may be counted twice: slightly too much until the next count.
        self._stored = _sum(self._stored, LettersHeld(-before.letters, -before.size_bytes))
        self._judge()

    async def run(self) -> None:
        """Count periodically, until cancelled."""
        breaker = Breaker("dead letters can't be counted; the last count stands", "dead letters are counted again")
        while True:
            with anyio.move_on_after(_COUNT_AT_LIMIT_EVERY_S if self.is_full else _COUNT_EVERY_S):
                await self._count_now.wait()
            await self._store.breaker.wait_closed()
            self._count_now = anyio.Event()
            try:
                await self.count()
            except StoreError as error:
                await anyio.sleep(breaker.failed(error))
            else:
                breaker.succeeded()

    def _share(self, of: LettersHeld) -> float:
        return max(of.letters / self._policy.dead_letters_max, of.size_bytes / self._policy.dead_letters_max_bytes)

    def _judge(self) -> None:
        held, policy, used = self.held, self._policy, self._share(self.held)
        fields = {
            "letters": held.letters,
            "bytes": held.size_bytes,
            "dead_letters_max": policy.dead_letters_max,
            "dead_letters_max_bytes": policy.dead_letters_max_bytes,
        }
        if used >= 1 and not self.is_full:
            self._has_room = anyio.Event()
            self._full_since = time.monotonic()
            self._count_now.set()
            log.warning("dead letters reached their limit; polling pauses until there is room", **fields)
        elif used <= _RESUME_BELOW and self.is_full:
            seconds = round(time.monotonic() - self._full_since, 1)
            log.info("there is room for dead letters again; polling resumes", paused_seconds=seconds, **fields)
            self._has_room.set()
        self._metrics.letters_stored.set(held.letters)
        self._metrics.letters_stored_bytes.set(held.size_bytes)
        self._metrics.letters_limit_ratio.set(used)
        self._metrics.letters_full.set(int(self.is_full))


def _sum(*parts: LettersHeld) -> LettersHeld:
    return LettersHeld(sum(part.letters for part in parts), sum(part.size_bytes for part in parts))


def no_room() -> RetryLater:
    """Release a message whose dead letter the store has no room for."""
    return RetryLater(
        delay_s=random.randint(*_HIDE_S),  # noqa: S311 - jitter, not a secret
        failure=None,
        why="its dead letter has no room in the store: replay or purge some, or raise dead_letters_max",
        no_room=True,
    )
