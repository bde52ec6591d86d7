"""What a crash of the database and a failover to a standby leave: what is missing there runs again, and is not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import anyio
import asyncpg
import pytest

from consumer.errors import StoreError
from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import at, psql
from tests.store.postgres_server import copy_server, cut_off, promote, run_server, server_folder
from tests.store.records import ended, run

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


@pytest.fixture
def own_target() -> Iterator[str]:
    """A server of the test's own: which standbys there are is one setting for all sessions."""
    with server_folder() as folder, run_server(folder) as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


async def test_a_crash_of_the_server_loses_nothing(make_record: MakeRecord) -> None:
    """After a crash of the server confirmed claims and ends are there."""
    with server_folder() as folder:
        with run_server(folder, wal_writer_delay="10s", autovacuum="off") as port:
            address = at(f"postgresql://postgres@127.0.0.1:{port}/postgres")
            ledger = PostgresLedger(address)
            await ledger.open()
            assert await ledger.claim("ended", 60) == Claimed()
            assert await ledger.done(make_record("ended"))
            assert await ledger.claim("claimed", 60) == Claimed()
        with run_server(folder, port=port):
            other = PostgresLedger(address)
            await other.open()
            assert await other.claim("ended", 60) == ended(dead=False)
            assert isinstance(await other.claim("claimed", 60), Elsewhere)
            assert list(await ledger.renew(["claimed"], 60)) == []
            assert await ledger.done(make_record("claimed"))
            await ledger.close()
            await other.close()


async def test_a_failover_to_a_standby_that_lacks_the_last_second(
    make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """The ledgers go on at the new primary; what it has stays. A claim that it lacks is lost: its job runs again."""
    with server_folder() as folder, server_folder() as other_folder, ExitStack() as primary:
        old_port = primary.enter_context(run_server(folder))
        copy_server(other_folder, old_port)
        with run_server(other_folder) as new_port:
            hosts = f"127.0.0.1:{old_port},127.0.0.1:{new_port}"
            first, second = (
                PostgresLedger(at(f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"))
                for _ in range(2)
            )
            await first.open()
            await second.open()
            for key in ("ended", "kept"):
                await first.claim(key, 60)
            await first.done(make_record("ended"))
            standby = f"postgresql://postgres@127.0.0.1:{new_port}/postgres"
            async with psql(standby) as there:
                with anyio.fail_after(10):
                    while await there.fetchval("SELECT count(*) FROM mns_consumer_job") < 2:  # noqa: ASYNC110 - as above
                        await anyio.sleep(0.02)
            await cut_off(standby)
            for key in ("done", "dead", "renewed", "failed", "late"):
                assert await first.claim(key, 60) == Claimed()
            assert await first.done(make_record("late"))
            primary.close()
            await promote(standby)
            # Nothing of a lost claim is written, and the answers say so.
            assert list(await first.renew(["kept", "renewed"], 60)) == ["renewed"]
            assert not await first.done(make_record("done"))
            assert not await first.set_aside(make_letter("dead"))
            assert await first.start("failed") == 0
            assert await first.fail(run("failed", "x")) == 0
            assert await second.claim("ended", 60) == ended(dead=False)
            assert isinstance(await second.claim("kept", 60), Elsewhere)
            assert await first.done(make_record("kept"))
            for ledger, key in ((first, "done"), (second, "dead"), (first, "renewed"), (second, "failed")):
                assert await ledger.claim(key, 60) == Claimed()
                assert await ledger.done(make_record(key))
            # Its message is deleted. If MPS notifies again, the job runs again.
            assert await second.claim("late", 60) == Claimed()
            await first.close()
            await second.close()
            operators = make_operators(at(standby))
            assert await operators.count_letters(Filter()) == 0
            assert len(await operators.list_jobs(Filter(), limit=9, dead=False)) == 6
            await operators.close()


async def set_standby(connection: asyncpg.Connection, name: str) -> None:
    """Let commits wait for a standby, ``''`` for none; returns once they do."""
    await connection.execute("SET synchronous_commit = local")
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await connection.execute("SELECT pg_reload_conf(); SET synchronous_commit = on")
    waits = not name
    with anyio.fail_after(10):
        while waits is not bool(name):
            try:
                await connection.execute("UPDATE mns_consumer_revision SET version_num = version_num", timeout=0.1)
                waits = False
            except TimeoutError:
                waits = True


async def test_nothing_is_confirmed_before_a_synchronous_standby_has_it(
    own_target: str, make_record: MakeRecord, make_letter: MakeLetter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the standby is away nothing is confirmed, though its row is there since the wait for it was cut short."""
    first = PostgresLedger(at(own_target))
    await first.open()
    await first.close()
    # Heeded by connections that are made from here on.
    monkeypatch.setattr(postgres_connection, "ANSWER_TIMEOUT_S", 0.6)
    ledger = PostgresLedger(at(own_target))
    await ledger.open()
    for key in ("done", "dead"):
        await ledger.claim(key, 60)
    async with psql(own_target) as other:
        await set_standby(other, "away")
        for _ in range(2):
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.claim("more", 60)
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.done(make_record("done"))
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.set_aside(make_letter("dead"))
            # As a restart does: the rows are there for all to see, and no standby has them.
            await other.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        await set_standby(other, "")
    assert await ledger.claim("more", 60) == Claimed()
    assert isinstance(await ledger.claim("more", 60), Elsewhere)
    assert await ledger.done(make_record("done"))
    assert await ledger.set_aside(make_letter("dead"))
    await ledger.close()
    operators = make_operators(at(own_target))
    assert await operators.count_letters(Filter()) == 1
    await operators.close()
