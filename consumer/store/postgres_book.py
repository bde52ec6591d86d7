"""Say the calls of a batch to PostgreSQL, and remember which claims are ours.

    carry_out   one statement for all calls of a kind; here nothing changes yet
    remember    what the answers say of our claims, once they are certain

Calls about one key come one after another, but a renewal is about many and runs beside their ends: what it is told
may be older than what is known here.

Elsewhere: the lanes and their connections (``store.postgres``), the statements (``store.postgres_statements``).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from consumer.policy import Reason
from consumer.store import postgres_statements as sql
from consumer.store.batch import Ages, Answer, Call, Kind
from consumer.store.clip import MAX_ERROR_BYTES, cut, fit_letter, fit_record, letter_bytes
from consumer.store.ledger import Claimed, Elsewhere, Ended, WaitingLetters
from consumer.store.postgres_schema import key_id

_UNSEEN_S: Final = 1.0
"""When to come back to a key that somebody took while we asked: nothing more is known of it."""

Rows = Sequence[Any]
Work = Callable[[asyncpg.Connection, Sequence[Call]], Awaitable[list[Answer]]]


class Book:
    """The claims of one holder and its part in the database."""

    def __init__(self) -> None:
        self._holder = secrets.token_hex(16)
        # Claims that a caller was told of, and until when on the monotonic clock. What the database has beyond
        # these under our name is a claim whose answer got lost, and may be claimed again.
        self._held: dict[str, float] = {}
        self._work: Mapping[Kind, Work] = {
            Kind.CLAIM: self._claim,
            Kind.RENEW: self._renew,
            Kind.RELEASE: self._release,
            Kind.START: self._start,
            Kind.TAKE_BACK: self._take_back,
            Kind.DONE: self._done,
            Kind.FAIL: self._fail,
            Kind.BURY: self._bury,
            Kind.PRUNE: _prune,
            Kind.LETTERS: _letters,
            Kind.PING: _ping,
            Kind.NOW: _now,
        }

    async def carry_out(self, connection: asyncpg.Connection, kind: Kind, calls: Sequence[Call]) -> list[Answer]:
        """Carry out calls of one kind, no key twice; it may be said again, and comes to the same.

        Raises:
            Exception: Whatever the driver raises, or a value that can't be sent; then nothing was written.
        """
        return await self._work[kind](connection, calls)

    def remember(self, answers: Sequence[Answer]) -> None:
        """Take down what answers say of our claims; at once, before anybody else can ask about their keys."""
        # By the clock after the answer: our own claim must not look free here while the database still keeps it.
        now = time.monotonic()
        for answer in answers:
            call = answer.call
            match call.kind:
                case Kind.CLAIM if isinstance(answer.result, Claimed):
                    self._held[str(call.key)] = now + call.value
                case Kind.RENEW:
                    keys, lease_s = call.value
                    # Only what is still held: its end may have been written while this answer was on its way.
                    self._held.update((key, now + lease_s) for key in keys if key in self._held)
                    self._forget(*answer.result)
                case Kind.DONE | Kind.FAIL | Kind.BURY | Kind.RELEASE:
                    self._forget(str(call.key))

    def _forget(self, *keys: str) -> None:
        for key in keys:
            self._held.pop(key, None)

    async def _claim(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        now = time.monotonic()
        held = {call.key: self._held.get(str(call.key), now) - now for call in calls}
        answers = [Answer(call, Elsewhere(held[call.key])) for call in calls if held[call.key] > 0]
        asked = [call for call in calls if held[call.key] <= 0]
        keys = [str(call.key) for call in asked]
        rows = await self._by_key(connection, sql.CLAIM, asked, keys, [call.value for call in asked])
        return answers + [Answer(call, _claimed(row)) for call, row in zip(asked, rows, strict=True)]

    async def _renew(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        leases: dict[str, float] = {}
        for call in calls:
            keys, lease_s = call.value
            for key in keys:
                leases[key] = max(lease_s, leases.get(key, 0.0))
        ids = [key_id(key) for key in leases]
        arrays = [ids, list(leases), list(leases.values()), self._told(leases)]
        rows = await connection.fetch(sql.RENEW, self._holder, *arrays) if leases else []
        kept = {row["key_id"] for row in rows}
        return [Answer(call, [key for key in call.value[0] if key_id(key) not in kept]) for call in calls]

    async def _release(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        await connection.execute(sql.RELEASE, self._holder, [key_id(str(call.key)) for call in calls])
        return [Answer(call) for call in calls]

    async def _start(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        return _answers(calls, "number", await self._by_key(connection, sql.START, calls))

    async def _take_back(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        await connection.execute(sql.TAKE_BACK, self._holder, [key_id(str(call.key)) for call in calls])
        return [Answer(call) for call in calls]

    async def _fail(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        errors = [cut(call.value, MAX_ERROR_BYTES) for call in calls]
        return _answers(calls, "number", await self._by_key(connection, sql.FAIL, calls, errors))

    async def _done(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        arrays = sql.columns([fit_record(call.value) for call in calls], sql.RECORD_TYPES)
        arrays.append(self._told(str(call.key) for call in calls))
        return _answers(calls, "ours", await self._by_key(connection, sql.DONE, calls, *arrays))

    async def _bury(self, connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
        letters = [fit_letter(call.value) for call in calls]
        records = sql.columns([letter.job for letter in letters], sql.RECORD_TYPES)
        sizes = [letter_bytes(letter) for letter in letters]
        arrays = [*records, *sql.columns(letters, sql.LETTER_TYPES), sizes, self._told(str(call.key) for call in calls)]
        return _answers(calls, "ours", await self._by_key(connection, sql.BURY, calls, *arrays))

    def _told(self, keys: Iterable[str]) -> list[bool]:
        """Of which claims a caller was told: their rows are made again where they are missing."""
        return [key in self._held for key in keys]

    async def _by_key(
        self, connection: asyncpg.Connection, statement: str, calls: Sequence[Call], *arrays: Sequence[Any]
    ) -> Rows:
        """One statement about each call's key; its rows in the order of the calls."""
        if not calls:
            return []
        ids = [key_id(str(call.key)) for call in calls]
        rows = {row["key_id"]: row for row in await connection.fetch(statement, self._holder, ids, *arrays)}
        return [rows[found] for found in ids]


def _answers(calls: Sequence[Call], column: str, rows: Rows) -> list[Answer]:
    return [Answer(call, row[column]) for call, row in zip(calls, rows, strict=True)]


def _claimed(row: Mapping[str, Any]) -> Claimed | Ended | Elsewhere:
    if row["failures"] is not None:
        return Claimed(row["failures"], row["starts"])
    if row["dead"] is not None:
        return Ended(row["dead"], row["function"], row["state"], row["user_data"])
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


async def _letters(connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
    groups = [WaitingLetters(**{**row, "reason": Reason(row["reason"])}) for row in await connection.fetch(sql.WAITING)]
    return [Answer(call, groups) for call in calls]


async def _now(connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
    now_s = await connection.fetchval(sql.NOW)
    return [Answer(call, now_s) for call in calls]


async def _ping(connection: asyncpg.Connection, calls: Sequence[Call]) -> list[Answer]:
    await connection.execute(sql.PING)
    return [Answer(call) for call in calls]
