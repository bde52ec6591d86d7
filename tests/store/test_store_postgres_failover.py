"""With a synchronous standby, which may be promoted at any moment, no confirmed end is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio
import asyncpg
import pytest

from consumer.errors import StoreError
from consumer.store.ledger import Claimed, DeadLetterRecord, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import at, psql
from tests.store.postgres_server import run_server, server_folder

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


@pytest.fixture
def own_target() -> Iterator[str]:
    """A server of the test's own: which standbys there are is one setting for all sessions."""
    with server_folder() as folder, run_server(folder) as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


async def set_standby(connection: asyncpg.Connection, name: str) -> None:
    """Let commits wait for a standby, ``''`` for none; returns once they do."""
    await connection.execute("SET synchronous_commit = local")
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await connection.execute("SELECT pg_reload_conf(); SET synchronous_commit = on")
    waits = not name
    with anyio.fail_after(10):
        while waits is not bool(name):
            try:
                await connection.execute("UPDATE mns_consumer_schema SET version = version", timeout=0.1)
                waits = False
            except TimeoutError:
                waits = True


async def test_no_end_is_confirmed_before_the_standby_has_it(
    own_target: str, make_record: MakeRecord, make_letter: MakeLetter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the standby is away no end is confirmed, though its row is there since the wait for it was cut short."""
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
        assert await ledger.claim("more", 60) == Claimed()
        for _ in range(2):
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.done(make_record("done"))
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.set_aside(make_letter("dead"))
            # As a restart does: the rows are there for all to see, and no standby has them.
            await other.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        await set_standby(other, "")
    assert await ledger.done(make_record("done"))
    assert await ledger.set_aside(make_letter("dead"))
    await ledger.close()
    operators = make_operators(at(own_target))
    assert await operators.count_letters(Filter()) == 1
    await operators.close()
