"""What operators' queries cost: an index where a filter has one, and nothing in a daemon.

The tables are filled with a million rows; ``STORE_ROWS`` says another number. ``STORE_TIMES=1`` also holds the time of
each page, which beside other tests would say more of them.
"""

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from consumer.policy import Reason
from consumer.store.ledger import Filter, Ledger
from consumer.store.queries import Operators
from consumer.store.session import Database, Session
from tests.store.postgres_rig import psql

T = TypeVar("T")
ROWS: Final = int(os.environ.get("STORE_ROWS", "1000000"))
BAR_S: Final = 0.2 if os.environ.get("STORE_TIMES") else 10.0
"""For each page."""
NUMBERS = f"WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {ROWS})"  # noqa: S608 - a constant
RECORD = "queue, kind, function, message_id, job_id, state, attempts, enqueued_at, started_at, ended_at"
VALUES = "'1/r/q', 'IProduction', 'Cover', 'm', 'J-' || n, 'Success', 1, 1, 1, 1"
LETTER = "stored_at, reason, error_fingerprint, error, body, dequeue_count, first_dequeued_at, bytes, key"
LETTER_VALUES = (
    "n, CASE WHEN n % 1000 = 0 THEN 'stuck' ELSE 'rejected' END, 'g' || (n % 1000), 'e', '', 1, 1, 0, 'k' || n"
)
RUN = "stored_at, key, queue, function, message_id, attempt, started_at, ended_at, result, error"
RUN_VALUES = "n, 'k' || n, '1/r/q', 'Cover', 'm', 1, 1, 1, 'failed', 'e'"
FILL = {
    "sqlite": {
        f"job (key_hash, dead, holder, stored_at, key, {RECORD})": f"n, n % 1000 = 0, '', n, 'k' || n, {VALUES}",
        f"letter ({LETTER}, {RECORD})": f"{LETTER_VALUES}, {VALUES}",
        f"run (key_hash, {RUN})": f"n, {RUN_VALUES}",
    },
    "postgres": {
        f"mns_consumer_job (key_id, key, claimed_at, dead, stored_at, {RECORD})": (
            f"decode(md5(n::text), 'hex'), 'k' || n, 1, n % 1000 = 0, n, {VALUES}"
        ),
        f"mns_consumer_letter ({LETTER}, {RECORD})": f"{LETTER_VALUES}, {VALUES}",
        f"mns_consumer_run (key_id, {RUN})": f"decode(md5(n::text), 'hex'), {RUN_VALUES}",
    },
}
"""Rows by SQL: each 1,000th is of a rare kind."""


class Explaining:
    """A ``Session`` that keeps the plans of its queries."""

    def __init__(self, session: Session, plans: list[str]) -> None:
        self._session = session
        self._plans = plans
        self.execute = session.execute
        self.now = session.now

    async def fetch(self, statement: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        explain = "EXPLAIN QUERY PLAN" if "?" in statement else "EXPLAIN"
        plan = await self._session.fetch(f"{explain} {statement}", values)
        self._plans.append("\n".join(str(row[-1]) for row in plan))
        return await self._session.fetch(statement, values)


class ExplainingDatabase:
    """A ``Database`` whose sessions keep the plans of their queries."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.close = database.close
        self.plans: list[str] = []

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        return await self._database.run(lambda session: work(Explaining(session, self.plans)), atomic=atomic)


RARE: Final = Filter(reason=Reason.STUCK)
LATE: Final = Filter(since=ROWS - 20.0)
EARLY: Final = Filter(until=20.0)
ASKED: Final[dict[str, tuple[int, Callable[[Operators], Awaitable[Any]]]]] = {
    "letters of a rare reason": (10, lambda ask: ask.list_letters(RARE, limit=10, latest_first=True)),
    "their next page": (10, lambda ask: ask.list_letters(RARE, limit=10, after=ROWS - 1000, latest_first=True)),
    "the page before": (10, lambda ask: ask.list_letters(RARE, limit=10, before=ROWS // 2, latest_first=True)),
    "letters of a job": (1, lambda ask: ask.list_letters(Filter(job_id="J-7"), limit=10)),
    "letters by numbers": (2, lambda ask: ask.list_letters(Filter(ids=(3, 5)), limit=10)),
    "late letters": (10, lambda ask: ask.list_letters(LATE, limit=10)),
    "late letters of a common reason": (
        10,
        lambda ask: ask.list_letters(replace(LATE, reason=Reason.REJECTED), limit=10),
    ),
    "early letters": (10, lambda ask: ask.list_letters(EARLY, limit=10, latest_first=True)),
    "letters of a fingerprint": (
        10,
        lambda ask: ask.list_letters(Filter(error_fingerprint="g7"), limit=10, latest_first=True),
    ),
    "dead jobs": (10, lambda ask: ask.list_jobs(Filter(), limit=10, dead=True)),
    "late jobs": (10, lambda ask: ask.list_jobs(LATE, limit=10)),
    "late jobs of another function": (0, lambda ask: ask.list_jobs(replace(LATE, function="Other"), limit=10)),
    "early jobs": (10, lambda ask: ask.list_jobs(EARLY, limit=10)),
}
"""Pages, and how many records they have."""


async def fill(target: str) -> None:
    """Fill the tables; the planner knows what they hold."""
    for into, values in FILL["postgres" if "://" in target else "sqlite"].items():
        statement = f"{NUMBERS} INSERT INTO {into} SELECT {values} FROM number"  # noqa: S608 - constants only
        analyze = f"ANALYZE {into.partition(' ')[0]}"
        if "://" in target:
            async with psql(target) as server:
                await server.execute(statement)
                await server.execute(analyze)
        else:
            with closing(sqlite3.connect(target, isolation_level=None)) as file:
                file.execute(statement)
                file.execute(analyze)


@pytest.mark.slow
@pytest.mark.timeout(max(60, ROWS / 2_000))
@pytest.mark.parametrize("target", ["sqlite", "postgres"], indirect=True)
async def test_a_filter_with_an_index_reads_it(target: str, ledger: Ledger, operators: Operators) -> None:
    """No page, count or look-up reads a table of many rows from end to end where an index has what it asks for."""
    await fill(target)
    explaining = ExplainingDatabase(operators._database)
    ask = Operators(explaining, operators._engine)
    took_s: dict[str, float] = {}
    for name, (size, look) in ASKED.items():
        started = time.monotonic()
        assert len(await look(ask)) == size, name
        took_s[name] = time.monotonic() - started
    assert max(took_s.values()) < BAR_S, took_s
    plans = explaining.plans
    assert len(plans) == len(ASKED)
    assert [plan for plan in plans if "TEMP B-TREE" in plan] == [], "a page sorts all that matches"
    ended = (await ask.list_jobs(Filter(), limit=20, dead=True))[10].cursor
    assert len(await ask.list_jobs(Filter(), limit=10, dead=True, after=ended)) == 10
    assert len(await ask.list_jobs(Filter(), limit=10, before=ended)) == 10
    assert await ask.count_letters(RARE) == ROWS // 1000
    assert len((await ask.find_job("J-7", queues=["1/r/q"]))[1]) == 1
    assert await ask.begin_replay(1000) is not None
    assert list(await ask.list_runs("k7", "k8")) == []
    scans = [plan for plan in plans if re.search(r"Seq Scan on mns|SCAN (job|letter|run)\b", plan)]
    assert scans == []


def test_a_daemon_loads_neither_sqlalchemy_nor_alembic(sqlite_path: Path) -> None:
    """Neither the making of a new store nor its use loads what takes 30 MiB and more."""
    code = f"""
import asyncio, sys
import consumer.app
from consumer.store.open import make_ledger
from consumer.store_address import parse_store_address

async def main():
    ledger = make_ledger(parse_store_address({str(sqlite_path)!r}))
    await ledger.open()
    await ledger.claim("k", 60)
    await ledger.close()

asyncio.run(main())
print(*{{"sqlalchemy", "alembic"}} & sys.modules.keys())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == ""
