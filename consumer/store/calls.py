"""Turn each verb of the ledger into a call that waits for a batch: the half of both engines that is the same.

Elsewhere: what the verbs promise (``store.ledger``), how calls share a transaction (``store.batch``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections.abc import Sequence
from typing import Any

from consumer.store.batch import Ages, Kind
from consumer.store.ledger import Claimed, DeadLetter, Elsewhere, Ended, JobRecord, LettersHeld, Standby, WaitingLetters


class Calls(ABC):
    """The verbs of a ``Ledger``; an engine adds ``open``, ``close`` and how a call finds its answer."""

    @abstractmethod
    def _ask(self, kind: Kind, key: str | None, value: Any = None) -> Future[Any]:
        """Put a call among those that wait; the future is where its answer comes."""

    @abstractmethod
    def standby(self) -> Standby:
        """See ``Ledger.standby``."""

    async def claim(self, key: str, lease_s: float) -> Claimed | Ended | Elsewhere:
        """See ``Ledger.claim``."""
        _check_lease(lease_s)
        answer: Claimed | Ended | Elsewhere = await self._ask(Kind.CLAIM, key, lease_s)
        return answer

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Ledger.renew``."""
        _check_lease(lease_s)
        gone: Sequence[str] = await self._ask(Kind.RENEW, None, (tuple(keys), lease_s))
        return gone

    async def start(self, key: str) -> int:
        """See ``Ledger.start``."""
        return int(await self._ask(Kind.START, key))

    async def done(self, record: JobRecord) -> bool:
        """See ``Ledger.done``."""
        return bool(await self._ask(Kind.DONE, record.key, record))

    async def fail(self, key: str, error: str) -> int:
        """See ``Ledger.fail``."""
        return int(await self._ask(Kind.FAIL, key, error))

    async def release(self, key: str) -> None:
        """See ``Ledger.release``."""
        await self._ask(Kind.RELEASE, key)

    async def bury(self, letter: DeadLetter) -> bool:
        """See ``Ledger.bury``."""
        return bool(await self._ask(Kind.BURY, letter.job.key, letter))

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """See ``Ledger.prune``."""
        return int(await self._ask(Kind.PRUNE, None, Ages(older_than_s, limit, letters_older_than_s)))

    async def waiting(self) -> Sequence[WaitingLetters]:
        """See ``Ledger.waiting``."""
        groups: Sequence[WaitingLetters] = await self._ask(Kind.LETTERS, None)
        return groups

    async def letters_held(self) -> LettersHeld:
        """See ``Ledger.letters_held``."""
        groups = await self.waiting()
        return LettersHeld(sum(group.count for group in groups), sum(group.size_bytes for group in groups))

    async def now(self) -> float:
        """See ``Ledger.now``."""
        return float(await self._ask(Kind.NOW, None))

    async def ping(self) -> None:
        """See ``Ledger.ping``."""
        await self._ask(Kind.PING, None)

    def busy_s(self) -> float:
        """See ``Ledger.busy_s``."""
        return 0.0

    async def watch(self) -> None:
        """See ``Ledger.watch``."""
        await get_running_loop().create_future()


def _check_lease(lease_s: float) -> None:
    # Refused where it is the caller's bug: PostgreSQL has no such interval, and SQLite would hold the key forever.
    if not (math.isfinite(lease_s) and lease_s > 0):
        raise ValueError(f"lease_s is {lease_s!r}, expected a finite number of seconds above 0")
