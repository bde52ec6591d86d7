"""A store behind a real PgBouncer. What each engine promises is tried through it as well: ``target`` in conftest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import ANY

import anyio
import asyncpg
import pytest

from consumer.errors import ExitCode, StoreError, StorePoolerError
from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres.connection import begin, set_for_session
from consumer.store.postgres.ledger import PostgresLedger
from tests.pooler import SIZE, Pooler, left_in_sessions, pooler
from tests.postgres import postgres_schema
from tests.store.postgres_rig import at, psql
from tests.store.records import run

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


@pytest.fixture
def schema() -> Iterator[str]:
    with postgres_schema() as name:
        yield name


@pytest.fixture
def own_pooler() -> Iterator[Pooler]:
    """A pooler whose sessions no other test uses."""
    with pooler() as running:
        yield running


@pytest.fixture
async def pooled(own_pooler: Pooler, schema: str) -> AsyncIterator[list[PostgresLedger]]:
    """Three daemons that start at once, with nine connections for two sessions."""
    made = [PostgresLedger(at(own_pooler.store(schema))) for _ in range(3)]
    await asyncio.gather(*(ledger.open() for ledger in made))
    yield made
    await asyncio.gather(*(ledger.close() for ledger in made))


@pytest.fixture
def asking_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver asks whether the server is a primary, as it must before PostgreSQL 14."""

    async def is_primary(connection: asyncpg.Connection) -> bool:
        return not await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()")

    checks: dict[Any, Any] = asyncpg.connect_utils.target_attrs_check
    monkeypatch.setitem(checks, "primary", is_primary)


@pytest.mark.usefixtures("asking_driver")
async def test_nothing_is_left_in_shared_sessions(
    pooled: list[PostgresLedger], own_pooler: Pooler, schema: str, make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """After daemons and operators have worked, other clients' sessions are as on a fresh connection of their own."""
    operators = make_operators(at(own_pooler.store(schema) + "&target_session_attrs=primary"))
    await pooled[0].claim("first", 60)
    assert await pooled[1].claim("first", 60) == Elsewhere(ANY)
    for number, ledger in enumerate(pooled):
        keys = [f"{number}-{n}" for n in range(20)]
        await asyncio.gather(*(ledger.claim(key, 60) for key in keys))
        await ledger.renew(keys[:2], 60)
        await asyncio.gather(*(ledger.start(key) for key in keys))
        await ledger.fail(run(keys[0], "x"))
        await ledger.release(keys[1])
        await asyncio.gather(*(ledger.done(make_record(key)) for key in keys[2:-1]))
        await ledger.set_aside(make_letter(keys[-1]))
        await ledger.prune(older_than_s=3600, limit=10, letters_older_than_s=3600)
        await ledger.waiting()
        await ledger.ping()
    for stored in await operators.list_letters(Filter(), limit=9):
        begun = await operators.begin_replay(stored.id)
        assert begun is not None
        await operators.cancel_replay(begun)
        await operators.begin_replay(stored.id)
        await operators.finish_replay(stored.id)
        await operators.purge(Filter(ids=(stored.id,)))
    assert await operators.list_jobs(Filter(), limit=9)
    await operators.close()
    assert await left_in_sessions(own_pooler) == [({}, 0, 0)] * SIZE


async def test_one_of_many_runs_each_key_behind_a_pooler(pooled: list[PostgresLedger], make_record: MakeRecord) -> None:
    """Daemons that race for the same keys through fewer sessions than daemons get each key once, and none hangs."""
    keys = [f"k{number}" for number in range(300)]
    runs: list[str] = []

    async def live(ledger: PostgresLedger, key: str) -> None:
        if isinstance(await ledger.claim(key, 60), Claimed):
            runs.append(key)
            await ledger.start(key)
            assert await ledger.done(make_record(key))

    async with anyio.create_task_group() as tasks:
        for ledger, order in zip(pooled, (keys, keys[::-1], keys[150:] + keys[:150]), strict=True):
            for key in order:
                tasks.start_soon(live, ledger, key)
    assert sorted(runs) == sorted(keys)


async def test_a_restart_of_the_pooler_costs_no_caller_an_error(
    pooled: list[PostgresLedger], own_pooler: Pooler, make_record: MakeRecord
) -> None:
    """Idle connections that the pooler dropped are replaced; while the pooler is away calls fail."""
    first = pooled[0]
    await first.claim("k", 60)
    own_pooler.stop()
    with anyio.fail_after(3), pytest.raises(StoreError, match="see that it runs"):
        await first.ping()
    own_pooler.start()
    await first.renew(["k"], 60)
    assert await first.start("k") == 1
    own_pooler.stop()
    own_pooler.start()
    assert await first.done(make_record("k"))


async def test_a_refused_value_behind_a_pooler_harms_nothing(
    pooled: list[PostgresLedger], make_record: MakeRecord
) -> None:
    """A transaction that the server refuses is rolled back: the connection goes on, nothing of it is written."""
    first = pooled[0]
    await first.claim("k", 60)
    link = first._lanes[1].link

    async def half(connection: asyncpg.Connection) -> None:
        await connection.execute("UPDATE mns_consumer_job SET failures = 7")
        await connection.execute("SELECT 1 / 0")

    before = link._connection
    with pytest.raises(StoreError, match="DivisionByZero"):
        await link.run(half)
    assert link._connection is before or before is None
    assert await first.fail(run("k", "x")) == 1
    assert await first.claim("k", 60) == Claimed(failures=1)
    assert await first.done(make_record("k"))


async def test_a_daemon_that_stops_in_a_transaction_keeps_no_locks(
    pooled: list[PostgresLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent process in a transaction loses that transaction, so that others get its rows and session."""
    first, second = pooled[:2]
    await first.claim("k", 0.01)
    monkeypatch.setattr(postgres_connection, "IDLE_TIMEOUT_S", 0.3)

    async def stop(connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT FROM mns_consumer_job FOR UPDATE")
        await asyncio.sleep(0.6)
        await connection.execute("SELECT 1")

    async with anyio.create_task_group() as tasks:

        async def stopped() -> None:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await first._lanes[0].link._once(stop, atomic=False, settings={})

        tasks.start_soon(stopped)
        await asyncio.sleep(0.1)
        assert await second.claim("k", 60) == Claimed()
    assert isinstance(await first.claim("k", 60), Elsewhere)


@pytest.mark.parametrize(
    ("mode", "more", "advice"),
    [
        pytest.param("statement", "", "set pool_mode = transaction", id="statement pooling"),
        pytest.param("transaction", "&options=-cjit%3Doff", "write each setting by its name", id="options"),
    ],
)
async def test_a_pooler_that_can_not_work_is_refused(schema: str, mode: str, more: str, advice: str) -> None:
    """Daemon and operators refuse it at once as a fault of the settings and say what to do."""
    with pooler(mode) as running:
        address = at(running.store(schema) + more)
        operators = make_operators(address)
        for call in (PostgresLedger(address).open, lambda: operators.count_letters(Filter())):
            with pytest.raises(StorePoolerError, match=advice) as caught:
                await call()
            assert caught.value.exit_code is ExitCode.SETTINGS
            assert "\n" not in str(caught.value)
        await operators.close()


async def test_session_pooling_works_too(schema: str, make_record: MakeRecord) -> None:
    """A pooler that gives each client a session for as long as it is connected needs no settings of its own."""
    with pooler("session") as running:
        # It has two sessions, so the lanes are used one after another.
        ledger = PostgresLedger(at(running.store(schema)))
        await ledger.open()
        assert await ledger.claim("k", 60) == Claimed()
        assert await ledger.done(make_record("k"))
        await ledger.close()


async def test_each_transaction_has_the_settings_of_its_lane(own_pooler: Pooler, schema: str) -> None:
    """Behind a pooler as on a direct connection commits are durable, and nothing waits for long."""
    ledger = PostgresLedger(at(own_pooler.store(schema) + "&synchronous_commit=off&work_mem=3MB"))
    await ledger.open()
    names = ("synchronous_commit", "statement_timeout", "lock_timeout", "work_mem")
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    shown = [await lane.link.run(lambda connection: connection.fetch(query)) for lane in ledger._lanes[:2]]
    assert [tuple(row) for (row,) in shown] == [("on", "10s", "2s", "3MB")] * 2
    await ledger.close()


@pytest.mark.parametrize("attributes", ["any", "primary"])
async def test_each_kind_of_connection_is_recognised(
    own_pooler: Pooler, schema: str, postgres_target: str, attributes: str
) -> None:
    """Direct connections keep settings and prepared statements; pooled ones don't, whatever else the driver asks."""
    for target, is_pooled in ((own_pooler.store(schema), True), (postgres_target, False)):
        ledger = PostgresLedger(at(f"{target}&target_session_attrs={attributes}"))
        await ledger.open()
        await ledger.claim("k", 60)
        link = ledger._lanes[0].link
        assert link._is_pooled is is_pooled
        shown = await link.run(
            lambda connection: connection.fetchval("SELECT name FROM pg_prepared_statements LIMIT 1")
        )
        assert (shown is None) is is_pooled
        assert link._connection is not None
        outside = await link._connection.fetchval("SHOW enable_seqscan")
        assert outside == ("on" if is_pooled else "off")
        assert await link.run(lambda connection: connection.fetchval("SHOW enable_seqscan")) == "off"
        await ledger.close()


@pytest.mark.parametrize("text", ["it's", "a\\", "\\'; SELECT 1; --", "你"])
async def test_settings_are_sent_as_they_are_written(postgres_target: str, text: str) -> None:
    """A setting's value from the address is never taken for SQL, whatever the server's rules for literals are."""
    settings = {"my.setting": text}
    async with psql(postgres_target) as connection:
        for conforming in ("on", "off"):
            await connection.execute(f"SET standard_conforming_strings = {conforming}; SET backslash_quote = off")
            assert await connection.execute(set_for_session(settings, connection.get_server_pid())) == "SELECT 1"
            assert await connection.fetchval("SELECT current_setting('my.setting')") == text
            assert await connection.execute(set_for_session(settings, connection.get_server_pid() + 1)) == "SELECT 0"


async def test_settings_of_a_transaction_end_with_it(postgres_target: str) -> None:
    """The settings of a transaction end with it, however it ends."""
    settings = {"synchronous_commit": "off", "lock_timeout": "9"}
    names = "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout')"
    async with psql(postgres_target) as connection:
        before = await connection.fetch(names)
        for end in ("COMMIT", "ROLLBACK"):
            await connection.execute(begin(settings))
            assert [tuple(row) for row in await connection.fetch(names)] == [("on", "9ms")]
            await connection.execute(end)
            assert await connection.fetch(names) == before
