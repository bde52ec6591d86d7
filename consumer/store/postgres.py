"""The ledger on PostgreSQL, for several daemons on one queue.

Calls gather while a statement is under way and go out together; three lanes, a connection each, so that claims
don't wait for commits and nothing waits for upkeep:

    claims   claim, renew, release: not waited for on the server's disk
    ends     start, done, fail, bury: on the server's disk when answered
    upkeep   prune, count letters, ping

Elsewhere: what a batch says and what is remembered of it (``store.postgres_book``), the connections
(``store.postgres_link``), which calls may share a batch (``store.batch``).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from consumer.errors import StoreError
from consumer.store.batch import Answer, Call, Kind, resolve, take
from consumer.store.calls import Calls
from consumer.store.ledger import Standby
from consumer.store.postgres_book import Book
from consumer.store.postgres_link import LOCK_TIMEOUT_S, Link, RefusedError
from consumer.store.postgres_schema import MIGRATION_SETTINGS, is_current, migrate
from consumer.store.postgres_session import LAZY_COMMIT, PLANS
from consumer.store.postgres_standby import PostgresStandby
from consumer.store_address import PostgresAddress

_SETTINGS: Final = {**PLANS, "lock_timeout": str(int(LOCK_TIMEOUT_S * 1000))}
_HURRY: Final = {"lock_timeout": "100"}
"""For a call that is tried alone, in milliseconds: it has waited long enough in its batch."""
_BLAME_S: Final = 8.0
"""For how long the calls of a failed batch may go on failing one by one before all that are left fail with them."""


@dataclass(slots=True, eq=False)
class _Lane:
    """Kinds of calls that share a connection, and so come one after another."""

    kinds: frozenset[Kind]
    link: Link
    busy: bool = False


class PostgresLedger(Calls):
    """A ``Ledger`` in a database.

    Args:
        address: The database's.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._book = Book()
        ends = Link(address, _SETTINGS, durable=True)
        self._lanes = (
            _Lane(frozenset({Kind.CLAIM, Kind.RENEW, Kind.RELEASE}), Link(address, {**_SETTINGS, **LAZY_COMMIT})),
            _Lane(frozenset({Kind.START, Kind.DONE, Kind.FAIL, Kind.BURY}), ends),
            _Lane(frozenset({Kind.PRUNE, Kind.LETTERS, Kind.PING, Kind.NOW}), Link(address, _SETTINGS)),
        )
        self._first = ends
        self._to = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = ends.address
        self._is_open = False
        self._waiting: list[Call] = []
        self._busy_keys: set[str] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """See ``Ledger.open``."""
        if not self._is_open:
            try:
                if not await self._first.run(lambda connection: is_current(connection, self._address)):
                    await self._first.run(
                        lambda connection: migrate(connection, self._address), settings=MIGRATION_SETTINGS
                    )
            except BaseException:
                await self._first.close()
                raise
            self._loop = asyncio.get_running_loop()
            self._is_open = True

    async def close(self) -> None:
        """See ``Ledger.close``."""
        if not self._is_open:
            return
        self._is_open = False
        self._dispatch()
        while self._tasks:
            # Not gather(): a caller that is cancelled takes no write with it.
            await asyncio.wait(self._tasks)
        for lane in self._lanes:
            await lane.link.close()

    def standby(self) -> Standby:
        """See ``Ledger.standby``."""
        loop = self._loop
        if not self._is_open or loop is None:
            raise StoreError(f"store {self._address} is not open")
        return PostgresStandby(Link(self._to, {**_SETTINGS, **LAZY_COMMIT}), self._book, loop)

    def _ask(self, kind: Kind, key: str | None, value: Any = None) -> asyncio.Future[Any]:
        if not self._is_open:
            raise StoreError(f"store {self._address} is not open")
        loop = asyncio.get_running_loop()
        call = Call(kind, key, value, loop.create_future())
        self._waiting.append(call)
        if not self._scheduled:
            # At the end of this turn of the loop: whoever asks until then shares the statement.
            self._scheduled = True
            loop.call_soon(self._dispatch)
        return call.answer

    def _dispatch(self) -> None:
        """Send off what may go now, each lane its share."""
        self._scheduled = False
        busy_kinds = {kind for lane in self._lanes if lane.busy for kind in lane.kinds}
        batch, self._waiting = take(self._waiting, self._busy_keys, busy_kinds)
        for lane in self._lanes:
            calls = [call for call in batch if call.kind in lane.kinds]
            if calls:
                lane.busy = True
                self._busy_keys.update(call.key for call in calls if call.key is not None)
                # A task of our own: a caller that is cancelled harms neither its call nor its neighbours.
                task = asyncio.get_running_loop().create_task(self._drive(lane, calls))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _drive(self, lane: _Lane, calls: Sequence[Call]) -> None:
        """Carry out one lane's share of a batch, kind by kind."""
        kinds: defaultdict[Kind, list[Call]] = defaultdict(list)
        for call in calls:
            kinds[call.kind].append(call)
        # A key that was let go of may be another lane's the next moment: it is let go of once.
        busy = {call.key for call in calls if call.key is not None}
        try:
            for kind, some in kinds.items():
                resolve(await self._carry_out(lane, kind, some))
                over = busy.intersection(call.key for call in some)
                busy -= over
                self._busy_keys -= over
        finally:
            # Only when the loop itself is being torn down are there any left without an answer.
            resolve([Answer(call, error=StoreError(f"store {self._address} was closed")) for call in calls])
            self._busy_keys -= busy
            lane.busy = False
            if self._waiting:
                self._dispatch()

    async def _carry_out(self, lane: _Lane, kind: Kind, calls: Sequence[Call]) -> list[Answer]:
        try:
            return await self._say(lane, kind, calls)
        except RefusedError as error:
            # Nothing was written. One by one, only the call that is to blame fails.
            return [_blamed(calls[0], error)] if len(calls) == 1 else await self._one_by_one(lane, kind, calls, error)
        except StoreError as error:
            # An error apiece: one that several tasks raise would gather all their tracebacks.
            return [Answer(call, error=type(error)(*error.args)) for call in calls]

    async def _one_by_one(self, lane: _Lane, kind: Kind, calls: Sequence[Call], error: StoreError) -> list[Answer]:
        answers: list[Answer] = []
        failing_s = 0.0
        for call in calls:
            if failing_s >= _BLAME_S:
                answers.append(Answer(call, error=type(error)(*error.args)))
                continue
            asked_at = time.monotonic()
            try:
                answers += await self._say(lane, kind, [call], in_a_hurry=True)
            except StoreError as alone:
                answers.append(_blamed(call, alone))
                failing_s += time.monotonic() - asked_at
        return answers

    async def _say(self, lane: _Lane, kind: Kind, calls: Sequence[Call], *, in_a_hurry: bool = False) -> list[Answer]:
        async def say(connection: asyncpg.Connection) -> list[Answer]:
            return await self._book.carry_out(connection, kind, calls)

        try:
            answers = await lane.link.run(say, settings=_HURRY if in_a_hurry else {})
        except StoreError:
            raise
        except Exception as error:  # a value that can't even be sent is refused like one that the server refuses
            raise RefusedError(f"store {self._address}: it can't be written ({error!r})") from error
        self._book.remember(answers)
        return answers


def _blamed(call: Call, error: StoreError) -> Answer:
    about = ", ".join(call.value[0]) if call.kind is Kind.RENEW else call.key
    return Answer(call, error=type(error)(f"{error}; met by {call.kind.value} of {about!r}"))
