"""What operators' queries cost: an index where a filter has one, and nothing in a daemon."""

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from consumer.policy import Reason
from consumer.store.ledger import Filter, Ledger
from consumer.store.queries import Database, Operators, Session

T = TypeVar("T")
ROWS = 100_000
NUMBERS = f"WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {ROWS})"  # noqa: S608 - a constant
RECORD = "queue, kind, function, message_id, job_id, state, attempts, enqueued_at, started_at, ended_at"
VALUES = "'1/r/q', 'IProduction', 'Cover', 'm', 'J-' || n, 'Success', 1, 1, 1, 1"
LETTER = "stored_at, reason, error, body, dequeue_count, first_dequeued_at, bytes, key"
LETTER_VALUES = "n, CASE WHEN n % 1000 = 0 THEN 'stuck' ELSE 'rejected' END, 'e', '', 1, 1, 0, 'k' || n"
FILL = {
    "sqlite": {
        f"job (key_hash, dead, holder, stored_at, key, {RECORD})": "n, n % 1000 = 0, '', n, 'k' || n",
        f"letter ({LETTER}, {RECORD})": LETTER_VALUES,
    },
    "postgres": {
        f"mns_consumer_job (key_id, key, claimed_at, dead, stored_at, {RECORD})": (
            "decode(md5(n::text), 'hex'), 'k' || n, 1, n % 1000 = 0, n"
        ),
        f"mns_consumer_letter ({LETTER}, {RECORD})": LETTER_VALUES,
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


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sqlite", "postgres"], indirect=True)
async def test_a_filter_with_an_index_reads_it(target: str, ledger: Ledger, operators: Operators) -> None:
    """No page, count or look-up reads a table of many rows from end to end where an index has what it asks for."""

    async def fill(session: Session) -> None:
        for into, values in FILL["postgres" if "://" in target else "sqlite"].items():
            await session.execute(f"{NUMBERS} INSERT INTO {into} SELECT {values}, {VALUES} FROM number", ())  # noqa: S608 - constants only
            await session.fetch(f"ANALYZE {into.partition(' ')[0]}", ())

    await operators._database.run(fill)
    explaining = ExplainingDatabase(operators._database)
    asked = Operators(explaining, operators._engine)
    rare = Filter(reason=Reason.STUCK)
    page = await asked.list_letters(rare, limit=10, latest_first=True)
    assert page[0].letter.job.key == f"k{ROWS}"
    assert len(await asked.list_letters(rare, limit=10, after=page[-1].id, latest_first=True)) == 10
    assert await asked.count_letters(rare) == ROWS // 1000
    assert len(await asked.list_letters(Filter(job_id="J-7"), limit=10)) == 1
    assert len(await asked.list_letters(Filter(ids=(3, 5)), limit=10)) == 2
    dead = await asked.list_jobs(Filter(), limit=10, dead=True)
    assert [job.record.key for job in dead[:2]] == [f"k{ROWS}", f"k{ROWS - 1000}"]
    assert len(await asked.list_jobs(Filter(), limit=10, dead=True, after=dead[-1].cursor)) == 10
    assert len(await asked.list_jobs(Filter(), limit=10, after=dead[-1].cursor)) == 10
    assert await asked.begin_replay(page[0].id) is not None
    assert len(explaining.plans) == 10
    assert [plan for plan in explaining.plans if re.search(r"Seq Scan|SCAN (job|letter)\b", plan)] == []
    assert [plan for plan in explaining.plans[:8] if "TEMP B-TREE" in plan] == [], "a page sorts all that matches"


def test_a_daemon_loads_no_sqlalchemy(sqlite_path: Path) -> None:
    """Neither the making of a new store nor its use loads what takes 30 MiB."""
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
print("sqlalchemy" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
