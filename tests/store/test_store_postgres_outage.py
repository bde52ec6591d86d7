"""A database that goes away, falls silent, or whose answers get lost."""

import asyncio
from collections.abc import Callable

import anyio
import asyncpg
import pytest

from consumer.errors import StoreError
from consumer.store.ledger import Claimed, Elsewhere, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import at
from tests.store.records import ended, run
from tests.tcp_proxy import TcpProxy

MakeRecord = Callable[..., JobRecord]


async def test_a_connection_that_died_of_idleness(proxy: TcpProxy, proxied: str, make_record: MakeRecord) -> None:
    """Connections that are dropped while nothing happens cost no caller an error."""
    ledger = PostgresLedger(at(proxied))
    await ledger.open()
    await ledger.claim("k", 60)
    for _ in range(3):
        await proxy.cut()
        await ledger.renew(["k"], 60)
        assert await ledger.start("k") == 1
    await proxy.cut()
    assert await ledger.done(make_record("k"))
    await ledger.close()


async def test_a_database_that_goes_away(proxy: TcpProxy, proxied: str, make_record: MakeRecord) -> None:
    """While it is gone each call fails at once, in one line without the password; afterwards calls succeed."""
    ledger = PostgresLedger(at(proxied))
    operators = make_operators(at(proxied))
    await ledger.open()
    for key in ("k", "f"):
        await ledger.claim(key, 60)
    await proxy.refuse()
    with anyio.fail_after(3):
        errors = await asyncio.gather(
            ledger.done(make_record("k")),
            ledger.claim("n", 60),
            ledger.fail(run("f", "x")),
            ledger.ping(),
            operators.count_letters(Filter()),
            PostgresLedger(at(proxied)).open(),
            return_exceptions=True,
        )
    for error in errors:
        assert isinstance(error, StoreError)
        assert f"store postgresql://127.0.0.1:{proxy.port}/" in str(error)
        assert "see that it runs" in str(error)
        assert "hush" not in str(error)
        assert "\n" not in str(error)
    await proxy.accept()
    assert await ledger.done(make_record("k"))
    assert await ledger.fail(run("f", "x")) == 1
    await ledger.ping()
    assert await operators.count_letters(Filter()) == 0
    await ledger.close()
    await operators.close()


async def test_a_database_that_falls_silent(
    proxy: TcpProxy, proxied: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for an answer that never comes ends at its timeout, on old connections and on new ones."""
    for name in ("CONNECT_TIMEOUT_S", "ANSWER_TIMEOUT_S", "_CLOSE_TIMEOUT_S"):
        monkeypatch.setattr(postgres_connection, name, 0.3)
    ledger = PostgresLedger(at(proxied))
    await ledger.open()
    await ledger.claim("k", 60)
    proxy.hang()
    with anyio.fail_after(8):
        for _ in range(2):
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.done(make_record("k"))
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.claim("n", 60)
    proxy.resume()
    assert await ledger.done(make_record("k"))
    proxy.hang()
    with anyio.fail_after(8):
        await ledger.close()
    proxy.resume()


async def test_closing_while_a_call_is_under_way(proxy: TcpProxy, proxied: str, make_record: MakeRecord) -> None:
    """Closing waits for what was accepted, also when its caller is gone."""
    ledger = PostgresLedger(at(proxied))
    await ledger.open()
    await ledger.claim("k", 60)
    proxy.hang()
    ending = asyncio.ensure_future(ledger.done(make_record("k")))
    await asyncio.sleep(0.05)
    ending.cancel()
    closing = asyncio.ensure_future(ledger.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    proxy.resume()
    await closing
    await ledger.open()
    assert await ledger.claim("k", 60) == ended(dead=False)
    await ledger.close()


async def test_a_cancelled_operator(proxy: TcpProxy, proxied: str) -> None:
    """An operator's command that is cancelled during an answer leaves a connection that still works."""
    ledger = PostgresLedger(at(proxied))
    await ledger.open()
    await ledger.close()
    operators = make_operators(at(proxied))
    assert await operators.count_letters(Filter()) == 0
    proxy.hang()
    with anyio.move_on_after(0.1):
        await operators.count_letters(Filter())
    proxy.resume()
    assert await operators.count_letters(Filter()) == 0
    await operators.close()
    await operators.close()


async def test_a_claim_whose_answer_got_lost(
    proxy: TcpProxy, proxied: str, postgres_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim whose answer got lost may be claimed again at once by its own holder, and by no other."""
    ledger, other = PostgresLedger(at(proxied)), PostgresLedger(at(postgres_target))
    await ledger.open()
    await other.open()
    assert await ledger.claim("warm", 60) == Claimed()
    connection = ledger._lanes[0].link._connection
    assert connection is not None
    real = type(connection).fetch

    async def lost(self: asyncpg.Connection, query: str, *arguments: object) -> object:
        rows = await real(self, query, *arguments)
        if self is connection:
            raise TimeoutError
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(type(connection), "fetch", lost)
        with pytest.raises(StoreError, match="no answer"):
            await ledger.claim("k", 60)
    assert isinstance(await other.claim("k", 60), Elsewhere)
    assert await ledger.claim("k", 60) == Claimed()
    assert isinstance(await ledger.claim("k", 60), Elsewhere)
    await ledger.close()
    await other.close()


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), "the connection was lost"),
        (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), "two statements met"),
        (asyncpg.InterfaceError("the server expects 1 argument for this query, 2 were passed"), "report it"),
        (asyncpg.UnsupportedServerFeatureError("no such feature"), "it answers what the driver does not understand"),
        (asyncpg.ProtocolError("unexpected message"), "it answers what the driver does not understand"),
        (asyncpg.TargetServerAttributeNotMatched("no primary"), "no host is of the kind"),
        (asyncpg.ClientConfigurationError("no such option"), "the store's address asks for what the driver can't do"),
        (asyncpg.OutdatedSchemaCacheError("changed"), "its tables were changed meanwhile"),
    ],
)
async def test_what_the_driver_raises_is_named(postgres_target: str, error: Exception, meaning: str) -> None:
    """Each error of the driver itself becomes a store's error that says what it means; the next call goes through."""
    link = postgres_connection.Link(at(postgres_target), {})

    async def fails(_connection: asyncpg.Connection) -> None:
        raise error

    async def works(connection: asyncpg.Connection) -> object:
        return await connection.fetchval("SELECT 1")

    assert await link.run(works) == 1
    with pytest.raises(StoreError, match=meaning) as caught:
        await link.run(fails)
    assert type(error).__name__ in str(caught.value)
    assert "refused the call" not in str(caught.value)
    assert await link.run(works) == 1
    await link.close()


async def test_a_connection_that_was_closed_beneath_a_call_is_a_lost_one(postgres_target: str) -> None:
    """Asyncpg's errors for a lost connection become a lost connection."""
    link = postgres_connection.Link(at(postgres_target), {})

    async def closes(connection: asyncpg.Connection) -> object:
        connection.terminate()
        return await connection.fetchval("SELECT 1")

    with pytest.raises(StoreError, match=r"the connection was lost; see that it runs \(InterfaceError: "):
        await link.run(closes)
    await link.close()


async def test_a_server_with_an_unknown_login_is_named() -> None:
    """A server that asks for a login that the driver doesn't know is no fault of this program."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"R\0\0\0\x08\0\0\0\x63")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(ask, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ledger = PostgresLedger(at(f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable"))
        with pytest.raises(StoreError, match="it asks for a login that the driver does not know"):
            await ledger.open()
        await ledger.close()
