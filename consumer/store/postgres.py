"""The ledger on PostgreSQL, for several daemons on one queue.

Calls gather while a statement is under way and go out together; three lanes, a connection each, so that claims
don't wait for commits and nothing waits for upkeep:

    claims   claim, renew, release: not waited for on the server's disk
    ends     start, done, fail, bury: committed when answered
    upkeep   prune, ping

Elsewhere: the statements (``store.postgres_statements``), the connections (``store.postgres_link``), which
calls may share a batch (``store.batch``).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from consumer.errors import StoreError
from consumer.store import postgres_statements as sql
from consumer.store.batch import Ages, Answer, Call, Kind, resolve, take
from consumer.store.calls import Calls
from consumer.store.clip import MAX_ERROR_BYTES, cut, fit_letter, fit_record
from consumer.store.ledger import Claimed, Elsewhere, Ended
from consumer.store.postgres_link import LAZY_COMMIT, STEADY_PLANS, Link
from consumer.store.postgres_schema import key_id, migrate

_UNSEEN_S: Final = 1.0
"""When to come back to a key that somebody took while we asked: nothing more is known of it."""

Rows = Sequence[Any]
Work = Callable[[asyncpg.Connection, Sequence[Call]], Awaitable[list[Answer]]]


@dataclass(slots=True, eq=False)
class _Lane:
    """Kinds of calls that share a connection, and so come one after another."""

    kinds: frozenset[Kind]
    link: Link
    busy: bool = False


class PostgresLedger(Calls):
    """A ``Ledger`` in a database.

    Args:
        dsn: ``postgresql://USER@HOST:PORT/DATABASE``; ``?search_path=NAME`` chooses a schema.
    """

    def __init__(self, dsn: str) -> None:
        self._holder = secrets.token_hex(16)
        ends = Link(dsn, STEADY_PLANS)
        self._lanes = (
            _Lane(frozenset({Kind.CLAIM, Kind.RENEW, Kind.RELEASE}), Link(dsn, f"{STEADY_PLANS}; {LAZY_COMMIT}")),
            _Lane(frozenset({Kind.START, Kind.DONE, Kind.FAIL, Kind.BURY}), ends),
            _Lane(frozenset({Kind.PRUNE, Kind.PING}), Link(dsn, STEADY_PLANS)),
        )
        self._first = ends
        self._address = ends.address
        self._is_open = False
        self._waiting: list[Call] = []
        self._busy_keys: set[str] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Claims that a caller was told of, and until when on the monotonic clock. What the database has beyond
        # these under our name is a claim whose answer got lost, and may be claimed again.
        self._held: dict[str, float] = {}
        self._work: Mapping[Kind, Work] = {
            Kind.CLAIM: self._claim,
            Kind.RENEW: self._renew,
            Kind.RELEASE: self._release,
            Kind.START: self._start,
            Kind.DONE: self._done,
            Kind.FAIL: self._fail,
            Kind.BURY: self._bury,
            Kind.PRUNE: _prune,
            Kind.PING: _ping,
        }

    async def open(self) -> None:
        """See ``Ledger.open``."""
        if not self._is_open:
            try:
                await self._first.run(lambda connection: migrate(connection, self._address))
            except BaseException:
                await self._first.close()
                raise
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

    async def _ask(self, kind: Kind, key: str | None, value: Any = None) -> Any:
        if not self._is_open:
            raise StoreError(f"store {self._address} is not open")
        loop = asyncio.get_running_loop()
        call = Call(kind, key, value, loop.create_future())
        self._waiting.append(call)
        if not self._scheduled:
            # At the end of this turn of the loop: whoever asks until then shares the statement.
            self._scheduled = True
            loop.call_soon(self._dispatch)
        return await call.answer

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
        try:
            for kind, some in kinds.items():
                resolve(await self._carry_out(lane, kind, some))
                self._busy_keys.difference_update(call.key for call in some if call.key is not None)
        finally:
            # Only when the loop itself is being torn down are there any left without an answer.
            resolve([Answer(call, error=StoreError(f"store {self._address} was closed")) for call in calls])
            self._busy_keys.difference_update(call.key for call in calls if call.key is not None)
            lane.busy = False
            if self._waiting:
                self._dispatch()

    async def _carry_out(self, lane: _Lane, kind: Kind, calls: Sequence[Call]) -> list[Answer]:
        work = self._work[kind]
        try:
            return await lane.link.run(lambda connection: work(connection, calls))
        except StoreError as error:
            # An error apiece: one that several tasks raise would gather all their tracebacks.
            return [Answer(call, error=type(error)(*error.args)) for call in calls]
        except Exception as error:  # noqa: BLE001 - one call with a value that no database takes may not take others along
            if len(calls) == 1:
                text = f"store {self._address}: {kind.value} of {calls[0].key!r} can't be written: {error!r}"
                return [Answer(calls[0], error=StoreError(text))]
        # Nothing was written. One by one, only the call that is to blame fails.
        return [answer for call in calls for answer in await self._carry_out(lane, kind, [call])]

    async def _claim(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        now = time.monotonic()
        held = {call.key: self._held.get(str(call.key), now) - now for call in calls}
        answers = [Answer(call, Elsewhere(held[call.key])) for call in calls if held[call.key] > 0]
        asked = [call for call in calls if held[call.key] <= 0]
        keys = [str(call.key) for call in asked]
        rows = await self._by_key(connection, sql.CLAIM, asked, keys, [call.value for call in asked])
        for call, key, row in zip(asked, keys, rows, strict=True):
            answer = _claimed(row)
            if isinstance(answer, Claimed):
                self._held[key] = now + call.value
            answers.append(Answer(call, answer))
        return answers

    async def _renew(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        leases: dict[bytes, float] = {}
        for call in calls:
            keys, lease_s = call.value
            for key in keys:
                leases[key_id(key)] = max(lease_s, leases.get(key_id(key), 0.0))
        now = time.monotonic()
        rows = await connection.fetch(sql.RENEW, self._holder, list(leases), list(leases.values())) if leases else []
        kept = {row["key_id"] for row in rows}
        answers = []
        for call in calls:
            keys, lease_s = call.value
            gone = [key for key in keys if key_id(key) not in kept]
            self._held.update((key, now + lease_s) for key in keys)
            self._forget(gone)
            answers.append(Answer(call, gone))
        return answers

    async def _start(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        rows = await self._by_key(connection, sql.START, calls)
        return [Answer(call, row["number"]) for call, row in zip(calls, rows, strict=True)]

    async def _fail(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        errors = [cut(call.value, MAX_ERROR_BYTES) for call in calls]
        return self._let_go(calls, "number", await self._by_key(connection, sql.FAIL, calls, errors))

    async def _release(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        await connection.execute(sql.RELEASE, self._holder, [key_id(str(call.key)) for call in calls])
        self._forget(str(call.key) for call in calls)
        return [Answer(call) for call in calls]

    async def _done(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        arrays = sql.columns([fit_record(call.value) for call in calls], sql.RECORD_TYPES)
        return self._let_go(calls, "ours", await self._by_key(connection, sql.DONE, calls, *arrays))

    async def _bury(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        letters = [fit_letter(call.value) for call in calls]
        records = sql.columns([letter.job for letter in letters], sql.RECORD_TYPES)
        arrays = [*records, *sql.columns(letters, sql.LETTER_TYPES)]
        return self._let_go(calls, "ours", await self._by_key(connection, sql.BURY, calls, *arrays))

    def _let_go(self, calls: Sequence[Call], column: str, rows: Rows) -> list[Answer]:
        self._forget(str(call.key) for call in calls)
        return [Answer(call, row[column]) for call, row in zip(calls, rows, strict=True)]

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._held.pop(key, None)

    async def _by_key(
        self, connection: asyncpg.Connection, statement: str, calls: Sequence[Call], *arrays: Sequence[Any]
    ) -> Rows:
        """One statement about each call's key; its rows in the order of the calls."""
        if not calls:
            return []
        ids = [key_id(str(call.key)) for call in calls]
        rows = {row["key_id"]: row for row in await connection.fetch(statement, self._holder, ids, *arrays)}
        return [rows[found] for found in ids]


def _claimed(row: Mapping[str, Any]) -> Claimed | Ended | Elsewhere:
    if row["failures"] is not None:
        return Claimed(row["failures"], row["starts"])
    if row["dead"] is not None:
        return Ended(dead=row["dead"])
    remaining_s = row["remaining_s"]
    return Elsewhere(_UNSEEN_S if remaining_s is None else max(0.0, remaining_s))


async def _prune(connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
    return [Answer(call, await _prune_step(connection, call.value)) for call in calls]


async def _prune_step(connection: asyncpg.Connection, ages: Ages) -> int:
    steps = [(statement, ages.older_than_s) for statement in sql.PRUNE]
    if ages.letters_older_than_s is not None:
        steps.append((sql.PRUNE_LETTERS, ages.letters_older_than_s))
    gone = 0
    for statement, age_s in steps:
        if gone < ages.limit:
            # The server tells "DELETE 12".
            gone += int((await connection.execute(statement, age_s, ages.limit - gone)).rpartition(" ")[2])
    return gone


async def _ping(connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
    await connection.execute(sql.PING)
    return [Answer(call) for call in calls]
