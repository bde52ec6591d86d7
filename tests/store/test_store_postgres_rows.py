"""A row that is locked or refused fails one call only; calls about one key keep their order."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import asyncpg
import pytest

from consumer.errors import StoreError
from consumer.store.ledger import Claimed, DeadLetterRecord, JobRecord
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres import database as postgres_database
from consumer.store.postgres import ledger as postgres_ledger
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import at, psql, until
from tests.store.records import run

MakeLetter = Callable[..., DeadLetterRecord]
MakeRecord = Callable[..., JobRecord]


async def test_long_waits_are_cut(ledgers: list[PostgresLedger], monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a lock of another session ends in an error after a while."""
    monkeypatch.setattr(postgres_connection, "STATEMENT_TIMEOUT_S", 0.3)
    first, second = ledgers[:2]
    await first.claim("k", 0.001)
    locked, free = asyncio.Event(), asyncio.Event()

    async def lock(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM mns_consumer_job FOR UPDATE")
            locked.set()
            await free.wait()

    locking = asyncio.ensure_future(first._upkeep.run(lock))
    await locked.wait()
    with pytest.raises(StoreError, match="a statement took longer than"):
        await second.claim("k", 60)
    free.set()
    await locking
    assert await second.claim("k", 60) == Claimed()


@pytest.mark.parametrize("verb", ["set_aside", "claim", "renew"])
async def test_a_locked_row_fails_alone(
    ledgers: list[PostgresLedger], postgres_target: str, make_letter: MakeLetter, verb: str
) -> None:
    """Of a batch only the call about a row that another session locks fails, soon and in plain words."""
    ledger = ledgers[0]
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        await ledger.claim(key, 60)
        if verb == "claim":
            await ledger.release(key)
    calls: dict[str, Callable[[str], Awaitable[object]]] = {
        "set_aside": lambda key: ledger.set_aside(make_letter(key)),
        "claim": lambda key: ledger.claim(key, 60),
        "renew": lambda key: ledger.renew([key], 60),
    }
    expected: dict[str, object] = {"set_aside": True, "claim": Claimed(), "renew": []}
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("UPDATE mns_consumer_job SET failures = failures WHERE key = 'k7'")
        with anyio.fail_after(postgres_connection.LOCK_TIMEOUT_S + 5):
            answers = await asyncio.gather(*(calls[verb](key) for key in keys), return_exceptions=True)
    refused = answers.pop(7)
    assert answers == [expected[verb]] * 19
    assert isinstance(refused, StoreError)
    text = str(refused)
    assert "another session keeps a row or a table locked; find it in pg_stat_activity, end it" in text
    assert text.endswith(f"; met by {verb} of 'k7'")
    assert await calls[verb]("k7") == expected[verb]


async def test_a_locked_table_fails_soon(
    ledgers: list[PostgresLedger], postgres_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While everything is locked, a large batch is not tried to its last call, one after the other."""
    monkeypatch.setattr(postgres_ledger, "_ALONE_S", 0.3)
    ledger = ledgers[0]
    await ledger.claim("k", 60)
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("LOCK TABLE mns_consumer_job")
        with anyio.fail_after(postgres_connection.LOCK_TIMEOUT_S + 5):
            answers = await asyncio.gather(
                *(ledger.claim(f"k{number}", 60) for number in range(200)), return_exceptions=True
            )
    assert all(isinstance(answer, StoreError) and "locked" in str(answer) for answer in answers)
    assert len({id(answer) for answer in answers}) == 200
    assert await ledger.claim("k7", 60) == Claimed()


async def test_a_row_that_is_refused_fails_alone(
    ledgers: list[PostgresLedger], postgres_target: str, make_record: MakeRecord
) -> None:
    """A row that a foreign constraint refuses fails alone in its batch."""
    ledger = ledgers[0]
    async with psql(postgres_target) as other:
        await other.execute("ALTER TABLE mns_consumer_job ADD CHECK (function <> 'Unwanted')")
    for key in "abc":
        await ledger.claim(key, 60)
    answers = await asyncio.gather(
        *(ledger.done(make_record(key, function="Unwanted" if key == "b" else "Cover")) for key in "abc"),
        return_exceptions=True,
    )
    assert [answers[0], answers[2]] == [True, True]
    assert isinstance(answers[1], StoreError)
    assert "CheckViolationError" in str(answers[1])


async def test_opening_waits_for_who_changes_the_schema(postgres_target: str) -> None:
    """A daemon that starts while another brings the schema up to date waits longer than for any other lock."""
    ledger = PostgresLedger(at(postgres_target))
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", postgres_database._LOCK)
        opening = asyncio.ensure_future(ledger.open())
        await asyncio.sleep(postgres_connection.LOCK_TIMEOUT_S + 0.3)
        assert not opening.done()
    await opening
    await ledger.close()


async def test_a_key_is_let_go_of_once(
    ledgers: list[PostgresLedger], postgres_target: str, make_record: MakeRecord
) -> None:
    """A call waits for the one about its key in another lane, also when the batch that had it before ends meanwhile."""
    ledger = ledgers[0]
    for key in ("slow", "k"):
        await ledger.claim(key, 60)
    async with psql(postgres_target) as other, psql(postgres_target) as another:
        keeps_slow, keeps_k = other.transaction(), another.transaction()
        await keeps_slow.start()
        await other.execute("SELECT FROM mns_consumer_job WHERE key = 'slow' FOR UPDATE")
        batch = asyncio.gather(ledger.fail(run("k", "x")), ledger.done(make_record("slow")))
        await until(lambda: "k" in ledger._busy_keys)
        await until(lambda: "k" not in ledger._busy_keys)
        await keeps_k.start()
        await another.execute("SELECT FROM mns_consumer_job WHERE key = 'k' FOR UPDATE")
        claiming = asyncio.ensure_future(ledger.claim("k", 60))
        await until(lambda: "k" in ledger._busy_keys)
        await keeps_slow.rollback()
        assert list(await batch) == [1, True]
        ending = asyncio.ensure_future(ledger.done(make_record("k")))
        await asyncio.sleep(0.1)
        assert not ending.done()
        await keeps_k.rollback()
        assert await claiming == Claimed(failures=1)
        assert await ending
