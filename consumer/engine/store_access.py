"""How the engine uses the store: writes that are retried, the limit of its dead letters, and pruning.

Without the ledger nothing can be claimed or settled, so messages are better off in their queue. A failed write first
probes the store. If the store is down its breaker opens: polls wait, and the write is retried once the store works. If
the store works, the fault is of this write alone, as when another session locks its row: that write is retried by
itself, with growing pauses, while its message's lease is renewed.

While the store holds as many dead letters as it may, polling pauses: a message that would be set aside is hidden again,
and nothing new is asked for, since whether it would succeed is not known beforehand. Polling resumes once letters were
replayed, purged or pruned. The store counts its letters every 15 seconds, and every few seconds at the limit; what this
process stores meanwhile is added. What other processes store in the same database is seen at the next count, which
comes sooner when this one has stored a hundredth of the limit: several together may exceed it by about that much each.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import anyio
import structlog

from consumer.config import Policy
from consumer.engine.breaker import Breaker, backoff_s
from consumer.engine.outcome import RetryLater
from consumer.errors import StoreError
from consumer.ops.metrics import Metrics
from consumer.store.ledger import Ledger, LettersHeld
from consumer.store.submissions import Submissions

if TYPE_CHECKING:
    from consumer.engine.lane import Lane

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.stdlib.get_logger(__name__)

STALL_S: Final = 5.5
"""A call that takes longer hangs in the disk: SQLite itself waits at most 5 s, for another process's lock."""
_MOST_TRIES: Final = 4
_LOOK_S: Final = 0.5
_COUNT_EVERY_S: Final = 15.0
_COUNT_AT_LIMIT_EVERY_S: Final = 5.0
_COUNT_AFTER_SHARE: Final = 0.01
_RESUME_BELOW: Final = 0.95
"""The share of a limit below which polling resumes, so that it does not stop and start with every letter."""
_HIDE_S: Final = (60, 120)
"""How long a message is hidden that there is no room for: a random time between the two."""
_CLOCKS_AGREE_S: Final = 900.0
"""How far MNS lets the Date of a request be off (facts/mns.md#clock-difference)."""
_PRUNE_EVERY_S: Final = 60.0
_PRUNE_STEP: Final = 500
_PRUNE_PAUSE_S: Final = 0.05


class StoreAccess:
    """The ledger and its circuit breaker; one for all queues."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.breaker = Breaker("store failed; polling pauses until it works", "store works again", probe=ledger.ping)
        self._one_write = Breaker(
            "a write fails though the store works; it is retried while its message is held",
            "all writes succeed again",
        )
        self._failing_writes = 0

    @property
    def is_up(self) -> bool:
        """Whether the store works, as far as is known."""
        return self.breaker.is_closed

    @property
    def stalled_s(self) -> float:
        """For how many seconds the disk has been at one call, from ``STALL_S`` on; 0 before."""
        seconds = self.ledger.busy_s()
        return seconds if seconds >= STALL_S else 0.0

    @property
    def works(self) -> bool:
        """Whether neither a call nor a probe has failed since the last success, and no call hangs in the disk."""
        return self.breaker.fault is None and not self.stalled_s

    async def persist(self, write: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Write until it succeeds or is cancelled; every write is idempotent."""
        asked_at = time.monotonic()
        try:
            return await write(*arguments)
        except StoreError as error:
            return await self._retry(partial(write, *arguments), error, asked_at, math.inf)

    async def try_write(self, write: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """As ``persist``, but give up after a few tries that fail while the store works.

        Raises:
            StoreError: The last try's.
        """
        asked_at = time.monotonic()
        try:
            return await write(*arguments)
        except StoreError as error:
            return await self._retry(partial(write, *arguments), error, asked_at, _MOST_TRIES)

    async def _retry(
        self, write: Callable[[], Awaitable[T]], error: StoreError, asked_at: float, most_tries: float
    ) -> T:
        """Retry a write that failed with ``error``."""
        faults = 0
        try:
            while True:
                if await self.breaker.confirm(error, asked_at):
                    faults += 1
                    if faults >= most_tries:
                        raise error
                    if faults == 1:
                        # The store failed at that moment and works now: most likely the write does too.
                        self._failing_writes += 1
                    else:
                        self._one_write.failed(error)
                        await anyio.sleep(backoff_s(faults - 1))
                else:
                    await self.breaker.wait_closed()
                asked_at = time.monotonic()
                try:
                    answer = await write()
                except StoreError as again:
                    error = again
                    continue
                if faults and self._failing_writes == 1:
                    self._one_write.succeeded()
                return answer
        finally:
            if faults:
                self._failing_writes -= 1

    async def watch_disk(self) -> None:
        """Log when a call begins to hang in the disk and when it returns, until cancelled."""
        began_at: float | None = None
        while True:
            await anyio.sleep(_LOOK_S)
            stalled_s = self.stalled_s
            if stalled_s and began_at is None:
                began_at = time.monotonic() - stalled_s
                log.warning("the disk hangs under the store; messages wait for it", seconds=round(stalled_s, 1))
            elif began_at is not None and not stalled_s:
                log.info("the disk answers the store again", seconds=round(time.monotonic() - began_at, 1))
                began_at = None


class LetterLimit:
    """The limit of one store, for all queues."""

    def __init__(self, store: StoreAccess, policy: Policy, metrics: Metrics) -> None:
        self._store = store
        self._policy = policy
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
        if self._share(self._stored) >= _COUNT_AFTER_SHARE:
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
        self._metrics.set_letters_waiting((group.queue, group.reason, group.count, group.oldest_at) for group in groups)
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


def no_room_outcome() -> RetryLater:
    """The outcome of a message whose dead letter the store has no room for: hidden for 60 to 120 s."""
    return RetryLater(
        delay_s=random.randint(*_HIDE_S),  # noqa: S311 - jitter, not a secret
        failure=None,
        why="its dead letter has no room in the store: replay or purge some, or raise dead_letters_max",
        no_room=True,
    )


async def prune(store: StoreAccess, submissions: Submissions, lanes: Sequence[Lane], least_s: float) -> None:
    """Remove old records in small steps; never sooner than twice the longest retention of the queues.

    Ages are measured by the store's clock. If that clock has jumped, everything would be old at once, so nothing is
    removed unless it agrees with MNS's. A record is kept for at least ``least_s``, whatever the settings and queues
    say.
    """
    breaker = Breaker("old records can't be pruned; retried every minute", "pruning works again")
    while True:
        await anyio.sleep(_PRUNE_EVERY_S)
        policy = lanes[0].rules.policy
        keep_s = max([policy.job_retention_s, least_s, *(2 * lane.retention_s for lane in lanes)])
        letters_s = max(keep_s, policy.dead_letter_retention_s)
        removed = _PRUNE_STEP
        while removed >= _PRUNE_STEP:
            await store.breaker.wait_closed()
            if all(lane.mns_base_s is None for lane in lanes):
                break
            try:
                _require_agreement(await store.ledger.now(), lanes)
                removed = await store.ledger.prune(
                    older_than_s=keep_s, limit=_PRUNE_STEP, letters_older_than_s=letters_s
                )
                removed = max(removed, await submissions.prune(older_than_s=keep_s, limit=_PRUNE_STEP))
            except StoreError as error:
                breaker.failed(error)
                break
            breaker.succeeded()
            # Messages must not wait behind a long clean-up.
            await anyio.sleep(_PRUNE_PAUSE_S)


def _require_agreement(store_s: float, lanes: Sequence[Lane]) -> None:
    """Raise ``StoreError`` when the store's clock is too far from MNS's."""
    for lane in lanes:
        if lane.mns_base_s is None:
            continue
        off_s = store_s - (lane.mns_base_s + time.monotonic())
        if abs(off_s) > _CLOCKS_AGREE_S:
            raise StoreError(
                f"the store's clock is {off_s:.0f} s off the clock of MNS, expected at most {_CLOCKS_AGREE_S:.0f} s: "
                "set the clock of this computer, or of the database's; until then nothing is pruned"
            )
