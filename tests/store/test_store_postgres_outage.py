"""A database that goes away, falls silent, or whose answers get lost."""

import asyncio
from collections.abc import Callable

import anyio
import asyncpg
import pytest

from consumer.errors import StoreError
from consumer.store import postgres_link
from consumer.store.ledger import Claimed, Elsewhere, Filter, JobRecord
from consumer.store.postgres import PostgresLedger
from consumer.store.postgres_operators import PostgresOperators
from tests.store.postgres_rig import Proxy, at
from tests.store.records import ended

MakeRecord = Callable[..., JobRecord]


async def test_a_connection_that_died_of_idleness(proxy: Proxy, make_record: MakeRecord) -> None:
    """Connections that are dropped while nothing happens cost no caller an error."""
    ledger = PostgresLedger(at(proxy.dsn))
    await ledger.open()
    await ledger.claim("k", 60)
    for _ in range(3):
        await proxy.cut()
        await ledger.renew(["k"], 60)
        assert await ledger.start("k") == 1
    await proxy.cut()
    assert await ledger.done(make_record("k"))
    await ledger.close()


async def test_a_database_that_goes_away(proxy: Proxy, make_record: MakeRecord) -> None:
    """While it is gone each call says so at once, in one line without the password; when back, all goes on."""
    ledger = PostgresLedger(at(proxy.dsn))
    operators = PostgresOperators(at(proxy.dsn))
    await ledger.open()
    for key in ("k", "f"):
        await ledger.claim(key, 60)
    await proxy.refuse()
    with anyio.fail_after(3):
        told = await asyncio.gather(
            ledger.done(make_record("k")),
            ledger.claim("n", 60),
            ledger.fail("f", "x"),
            ledger.ping(),
            operators.count_letters(Filter()),
            PostgresLedger(at(proxy.dsn)).open(),
            return_exceptions=True,
        )
    for error in told:
        assert isinstance(error, StoreError)
        assert f"store postgresql://127.0.0.1:{proxy.port}/" in str(error)
        assert "see that it runs" in str(error)
        assert "hush" not in str(error)
        assert "\n" not in str(error)
    await proxy.listen()
    assert await ledger.done(make_record("k"))
    assert await ledger.fail("f", "x") == 1
    await ledger.ping()
    assert await operators.count_letters(Filter()) == 0
    await ledger.close()
    await operators.close()


async def test_a_database_that_falls_silent(
    proxy: Proxy, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that doesn't come is waited for so long and no longer, on old connections and on new ones."""
    for name in ("CONNECT_TIMEOUT_S", "ANSWER_TIMEOUT_S", "_CLOSE_TIMEOUT_S"):
        monkeypatch.setattr(postgres_link, name, 0.3)
    ledger = PostgresLedger(at(proxy.dsn))
    await ledger.open()
    await ledger.claim("k", 60)
    proxy.hang()
    with anyio.fail_after(2):
        for _ in range(2):
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.done(make_record("k"))
            with pytest.raises(StoreError, match="no answer within"):
                await ledger.claim("n", 60)
    proxy.pass_on()
    assert await ledger.done(make_record("k"))
    proxy.hang()
    with anyio.fail_after(2):
        await ledger.close()
    proxy.pass_on()


async def test_closing_while_a_call_is_under_way(proxy: Proxy, make_record: MakeRecord) -> None:
    """Closing waits for what was accepted, also when its caller is gone."""
    ledger = PostgresLedger(at(proxy.dsn))
    await ledger.open()
    await ledger.claim("k", 60)
    proxy.hang()
    ending = asyncio.ensure_future(ledger.done(make_record("k")))
    await asyncio.sleep(0.05)
    ending.cancel()
    closing = asyncio.ensure_future(ledger.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    proxy.pass_on()
    await closing
    await ledger.open()
    assert await ledger.claim("k", 60) == ended(dead=False)
    await ledger.close()


async def test_a_cancelled_operator(proxy: Proxy) -> None:
    """An operator's command that is cancelled in the middle of an answer leaves a link that still works."""
    ledger = PostgresLedger(at(proxy.dsn))
    await ledger.open()
    await ledger.close()
    operators = PostgresOperators(at(proxy.dsn))
    assert await operators.count_letters(Filter()) == 0
    proxy.hang()
    with anyio.move_on_after(0.1):
        await operators.count_letters(Filter())
    proxy.pass_on()
    assert await operators.count_letters(Filter()) == 0
    await operators.close()
    await operators.close()


async def test_a_claim_whose_answer_got_lost(
    proxy: Proxy, postgres_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that went through unheard may be claimed again by its own holder, at once, and by no other."""
    ledger, other = PostgresLedger(at(proxy.dsn)), PostgresLedger(at(postgres_target))
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
