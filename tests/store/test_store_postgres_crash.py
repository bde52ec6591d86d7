"""Claims that a crash of the database undid: they are committed lazily."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import at, psql
from tests.store.postgres_server import run_server, server_folder
from tests.store.records import ended

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


@pytest.fixture
def forget_claims(postgres_target: str) -> Callable[[], Awaitable[None]]:
    """Undo claims, as a crash of the database may: they are committed lazily."""

    async def forget() -> None:
        async with psql(postgres_target) as connection:
            await connection.execute("DELETE FROM mns_consumer_job WHERE dead IS NULL")

    return forget


async def test_a_claim_that_the_database_forgot_still_ends(
    ledgers: list[PostgresLedger],
    postgres_target: str,
    make_record: MakeRecord,
    make_letter: MakeLetter,
    forget_claims: Callable[[], Awaitable[None]],
) -> None:
    """The end of a claim whose row is missing is written all the same, once, and counts for every holder."""
    first, second = ledgers[:2]
    for key in ("done", "dead"):
        assert await first.claim(key, 60) == Claimed()
    await forget_claims()
    assert [await first.done(make_record("done")) for _ in range(2)] == [True, True]
    assert [await first.set_aside(make_letter("dead")) for _ in range(2)] == [True, True]
    assert not await first.set_aside(make_letter("done"))
    assert await second.claim("done", 60) == ended(dead=False)
    assert await second.claim("dead", 60) == ended(dead=True)
    assert not await second.done(make_record("done"))
    operators = make_operators(at(postgres_target))
    assert {job.record.key: job.record for job in await operators.list_jobs(Filter(), limit=9)} == {
        "done": make_record("done"),
        "dead": make_letter("dead").job,
    }
    assert [stored.letter for stored in await operators.list_letters(Filter(), limit=9)] == [make_letter("dead")]
    await operators.close()


async def test_a_claim_that_the_database_forgot_is_renewed(
    ledgers: list[PostgresLedger], make_record: MakeRecord, forget_claims: Callable[[], Awaitable[None]]
) -> None:
    """A renewal of a claim whose row is gone makes it again, and it is then kept from others as before."""
    first, second = ledgers[:2]
    await first.claim("k", 60)
    await forget_claims()
    assert list(await first.renew(["k", "never"], 60)) == ["never"]
    assert isinstance(await second.claim("k", 60), Elsewhere)
    assert await second.claim("never", 60) == Claimed()
    assert await first.start("k") == 1
    assert await first.done(make_record("k"))


@pytest.mark.parametrize("end", ["claimed", "done", "released"])
async def test_a_forgotten_claim_is_lost_to_who_came_first(
    ledgers: list[PostgresLedger],
    make_record: MakeRecord,
    make_letter: MakeLetter,
    forget_claims: Callable[[], Awaitable[None]],
    end: str,
) -> None:
    """Where another holder took the key since, the first has lost it, whatever the other did with it."""
    first, second = ledgers[:2]
    for key in ("done", "dead", "renewed"):
        await first.claim(key, 60)
    await forget_claims()
    for key in ("done", "dead", "renewed"):
        assert await second.claim(key, 60) == Claimed()
        if end == "done":
            await second.done(make_record(key))
        elif end == "released":
            await second.release(key)
    assert not await first.done(make_record("done"))
    assert not await first.set_aside(make_letter("dead"))
    assert list(await first.renew(["renewed"], 60)) == ["renewed"]
    # It knows that now, and has no claim any more that could be restored.
    await forget_claims()
    assert list(await first.renew(["renewed"], 60)) == ["renewed"]
    assert not await first.done(make_record("renewed"))


async def test_an_end_of_many_forgotten_claims(
    ledgers: list[PostgresLedger], make_record: MakeRecord, forget_claims: Callable[[], Awaitable[None]]
) -> None:
    """Of two holders that race to end what the database forgot, each key has one end, and its holder alone hears so."""
    keys = [f"k{number}" for number in range(100)]
    for ledger in ledgers[:2]:
        await asyncio.gather(*(ledger.claim(key, 60) for key in keys))
        await forget_claims()
    orders = (keys, keys[::-1])
    ended = await asyncio.gather(
        *(
            asyncio.gather(*(ledger.done(make_record(key)) for key in order))
            for ledger, order in zip(ledgers, orders, strict=False)
        )
    )
    assert sorted([*ended[0], *ended[1]]) == [False] * 100 + [True] * 100
    assert [sum(pair) for pair in zip(ended[0], ended[1][::-1], strict=True)] == [1] * 100


async def test_a_crash_of_a_real_server(make_record: MakeRecord, make_letter: MakeLetter) -> None:
    """After a crash ends are there and claims are not; the holder of a claim still renews or ends it."""
    with server_folder() as folder:
        with run_server(folder, wal_writer_delay="10s", autovacuum="off") as port:
            address = at(f"postgresql://postgres@127.0.0.1:{port}/postgres")
            ledger = PostgresLedger(address)
            await ledger.open()
            for key in ("ended", "done", "dead", "renewed"):
                assert await ledger.claim(key, 60) == Claimed()
            assert await ledger.done(make_record("ended"))
            for key in ("late", "taken"):
                # After the last commit that waits for the disk, and so with it for all before it.
                assert await ledger.claim(key, 60) == Claimed()
        with run_server(folder, port=port):
            other = PostgresLedger(address)
            await other.open()
            assert await other.claim("ended", 60) == ended(dead=False)
            assert isinstance(await other.claim("done", 60), Elsewhere)
            assert await other.claim("taken", 60) == Claimed()
            assert list(await ledger.renew(["renewed", "late", "taken"], 60)) == ["taken"]
            assert await ledger.done(make_record("late"))
            assert await ledger.done(make_record("done"))
            assert await ledger.set_aside(make_letter("dead"))
            assert await other.done(make_record("taken"))
            await ledger.close()
            await other.close()
