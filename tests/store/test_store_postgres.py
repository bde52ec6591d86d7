"""What holds of the store in a database alone: several daemons, and a database that goes away."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote, urlsplit, urlunsplit

import anyio
import asyncpg
import pytest

from consumer.errors import ExitCode, StoreError, StoreSchemaError
from consumer.store import postgres, postgres_link, postgres_schema, postgres_statements
from consumer.store.ledger import Claimed, DeadLetter, Elsewhere, Ended, Filter, JobRecord
from consumer.store.postgres import PostgresLedger
from consumer.store.postgres_operators import PostgresOperators

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetter]


class Proxy:
    """A TCP proxy before the database that can be cut, refuse, and fall silent."""

    def __init__(self, dsn: str) -> None:
        self._dsn = urlsplit(dsn)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self.port = 0
        self.accepted = 0

    @property
    def dsn(self) -> str:
        """The database's address through here, with a password that must show nowhere."""
        netloc = f"{self._dsn.username}:hush%40hush@127.0.0.1:{self.port}"
        return urlunsplit(self._dsn._replace(netloc=netloc))

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Accept none, and cut those there are."""
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Drop every connection."""
        for writer in self._writers:
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang(self) -> None:
        """Pass nothing on, and close nothing."""
        self._passing.clear()

    def pass_on(self) -> None:
        """Pass everything on again."""
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there = await asyncio.open_connection(self._dsn.hostname, self._dsn.port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._writers.add(sink)
            task = asyncio.ensure_future(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


@contextlib.asynccontextmanager
async def psql(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody else in the same database."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def until(holds: Callable[[], bool]) -> None:
    """Look at every turn of the loop, until it holds."""
    with anyio.fail_after(5):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


@pytest.fixture
async def proxy(postgres_target: str) -> AsyncIterator[Proxy]:
    made = Proxy(postgres_target)
    await made.listen()
    yield made
    made.pass_on()
    await made.refuse()


@pytest.fixture
async def ledgers(postgres_target: str) -> AsyncIterator[list[PostgresLedger]]:
    """Four daemons that start at once on an empty schema."""
    made = [PostgresLedger(postgres_target) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in made))
    yield made
    await asyncio.gather(*(ledger.close() for ledger in made))


async def test_one_of_many_runs_each_key(
    ledgers: list[PostgresLedger], make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """Daemons that race for the same keys in different orders each get some, no key twice, none hangs."""
    keys = [f"k{number}" for number in range(300)]
    runs: list[tuple[int, str]] = []

    async def live(number: int, key: str) -> None:
        ledger = ledgers[number]
        answer = await ledger.claim(key, 60)
        if isinstance(answer, Claimed):
            runs.append((number, key))
            await ledger.start(key)
            assert await (ledger.bury(make_letter(key)) if key.endswith("3") else ledger.done(make_record(key)))

    orders = [keys, keys[::-1], keys[150:] + keys[:150], keys[::2] + keys[1::2]]
    async with anyio.create_task_group() as tasks:
        for number, order in enumerate(orders):
            for key in order:
                tasks.start_soon(live, number, key)
    assert sorted(key for _, key in runs) == sorted(keys)
    assert all([isinstance(await ledgers[0].claim(key, 60), Ended) for key in keys[:20]])


async def test_two_holders(ledgers: list[PostgresLedger], make_record: MakeRecord, make_letter: MakeLetter) -> None:
    """A claim keeps others out until it ends; then its first holder has lost it for good."""
    first, second = ledgers[:2]
    assert await first.claim("k", 0.3) == Claimed()
    answer = await second.claim("k", 60)
    assert isinstance(answer, Elsewhere)
    assert 0 < answer.remaining_s <= 0.3
    assert await first.start("k") == 1
    await anyio.sleep(0.35)
    assert await second.claim("k", 60) == Claimed(failures=0, starts=1)
    assert list(await first.renew(["k"], 60)) == ["k"]
    assert not await first.done(make_record("k"))
    assert not await first.bury(make_letter("k"))
    assert await first.fail("k", "x") == 0
    assert await first.start("k") == 1
    await first.release("k")
    assert await second.start("k") == 2
    assert await second.done(make_record("k"))
    assert not await first.done(make_record("k"))
    assert await first.claim("k", 60) == Ended(dead=False)


async def test_a_connection_that_died_of_idleness(proxy: Proxy, make_record: MakeRecord) -> None:
    """Connections that are dropped while nothing happens cost no caller an error."""
    ledger = PostgresLedger(proxy.dsn)
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
    ledger = PostgresLedger(proxy.dsn)
    operators = PostgresOperators(proxy.dsn)
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
            PostgresLedger(proxy.dsn).open(),
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
    ledger = PostgresLedger(proxy.dsn)
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
    ledger = PostgresLedger(proxy.dsn)
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
    assert await ledger.claim("k", 60) == Ended(dead=False)
    await ledger.close()


async def test_a_cancelled_operator(proxy: Proxy) -> None:
    """An operator's command that is cancelled in the middle of an answer leaves a link that still works."""
    ledger = PostgresLedger(proxy.dsn)
    await ledger.open()
    await ledger.close()
    operators = PostgresOperators(proxy.dsn)
    assert await operators.count_letters(Filter()) == 0
    proxy.hang()
    with anyio.move_on_after(0.1):
        await operators.count_letters(Filter())
    proxy.pass_on()
    assert await operators.count_letters(Filter()) == 0
    await operators.close()
    await operators.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(("/test", "/no_such_database"), "there is no such database; create it", id="database"),
        pytest.param(("search_path=", "search_path=no_such_"), "there is no such schema; create it", id="schema"),
        pytest.param(
            ("search_path=", "default_transaction_read_only=on&search_path="), "takes no writes", id="standby"
        ),
        pytest.param(("127.0.0.1", "no-such-host.invalid"), "can't be reached", id="host"),
        pytest.param(("search_path=", "sslmode=nonsense&search_path="), "the driver refused the call", id="dsn"),
    ],
)
async def test_what_is_wrong_in_plain_words(postgres_target: str, change: tuple[str, str], told: str) -> None:
    """Each common mistake is told as what it is."""
    dsn = postgres_target.replace(*change)
    if dsn == postgres_target:
        pytest.skip("the server's address has no part to change here")
    with pytest.raises(StoreError, match=told):
        await PostgresLedger(dsn).open()


async def test_a_newer_schema(postgres_target: str) -> None:
    """A schema of a newer version is refused, by the daemon and by operators."""
    ledger = PostgresLedger(postgres_target)
    await ledger.open()
    await ledger.close()
    connection = await asyncpg.connect(postgres_target)
    await connection.execute("UPDATE mns_consumer_schema SET version = 99")
    await connection.close()
    operators = PostgresOperators(postgres_target)
    for call in (ledger.open, lambda: operators.count_letters(Filter())):
        with pytest.raises(StoreSchemaError, match="schema version 99, this program knows 1"):
            await call()
    await operators.close()


@pytest.fixture
async def latin_target(postgres_target: str) -> AsyncIterator[str]:
    """The address of a database that can't hold all text."""
    name = f"mns_consumer_test_{secrets.token_hex(6)}"
    async with psql(postgres_target) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        yield urlunsplit(urlsplit(postgres_target)._replace(path=f"/{name}", query=""))
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_that_can_not_hold_all_text(latin_target: str) -> None:
    """A database of another encoding than UTF8 is refused as a fault of the settings, and nothing is made in it."""
    for _ in range(2):
        with pytest.raises(StoreSchemaError) as caught:
            await PostgresLedger(latin_target).open()
        told = str(caught.value)
        assert "has the encoding LATIN1, expected UTF8; name a database that was made by CREATE DATABASE" in told
        assert "\n" not in told
        assert caught.value.exit_code is ExitCode.SETTINGS
    async with psql(latin_target) as connection:
        assert await connection.fetchval("SELECT to_regclass('mns_consumer_schema')") is None


@pytest.mark.parametrize(("set_up", "ends"), [("off", "on"), ("local", "local"), ("on", "on")])
async def test_ends_are_durable(postgres_target: str, make_record: MakeRecord, set_up: str, ends: str) -> None:
    """Ends and operators' marks wait for the server's disk, also where its set-up says that nobody does."""
    target = f"{postgres_target}&synchronous_commit={set_up}"
    ledger, operators = PostgresLedger(target), PostgresOperators(target)
    await ledger.open()
    await ledger.claim("k", 60)
    await ledger.done(make_record("k"))
    await operators.count_letters(Filter())
    links = [ledger._lanes[0].link, ledger._lanes[1].link, operators._link]
    shown = [await link.run(lambda connection: connection.fetchval("SHOW synchronous_commit")) for link in links]
    assert shown == ["off", ends, ends]
    await ledger.close()
    await operators.close()


async def test_a_refused_call_harms_nothing(ledgers: list[PostgresLedger], make_record: MakeRecord) -> None:
    """When the server refuses, the caller hears why, and the connection is used again."""
    first = ledgers[0]
    address = first._lanes[0].link
    await first.claim("k", 60)

    async def rename(old: str, new: str) -> None:
        await address.run(lambda connection: connection.execute(f"ALTER TABLE {old} RENAME TO {new}"))

    await rename("mns_consumer_job", "elsewhere")
    with pytest.raises(StoreError, match=r"it refused the call \(UndefinedTableError"):
        await first.done(make_record("k"))
    await rename("elsewhere", "mns_consumer_job")
    assert await first.done(make_record("k"))


@pytest.mark.parametrize("name", ["CLAIM", "RENEW", "DONE", "BURY"])
async def test_look_ups_read_an_index(ledgers: list[PostgresLedger], name: str) -> None:
    """No statement of a message reads a whole table, even with plans made while the tables are empty."""

    async def plan(connection: asyncpg.Connection) -> str:
        statement = getattr(postgres_statements, name)
        values = {"bytea[]": b"x", "text[]": "k", "float8[]": 1.0, "bigint[]": 1, "boolean[]": True}
        arrays = [[values[kind]] * 16 for kind in re.findall(r"\$\d+::(\w+\[\])", statement)]
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", "holder", *arrays))

    told = await ledgers[0]._lanes[1].link.run(plan)
    assert "Index Scan" in told or "Index Only Scan" in told
    assert "Seq Scan on mns_consumer_job" not in told


async def test_long_waits_are_cut(ledgers: list[PostgresLedger], monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that somebody keeps on a row ends in an error, not in a daemon that stands still."""
    monkeypatch.setattr(postgres_link, "STATEMENT_TIMEOUT_S", 0.3)
    first, second = ledgers[:2]
    await first.claim("k", 0.001)
    locked, free = asyncio.Event(), asyncio.Event()

    async def hold(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM mns_consumer_job FOR UPDATE")
            locked.set()
            await free.wait()

    holding = asyncio.ensure_future(first._lanes[2].link.run(hold))
    await locked.wait()
    with pytest.raises(StoreError, match="a statement took longer than"):
        await second.claim("k", 60)
    free.set()
    await holding
    assert await second.claim("k", 60) == Claimed()


@pytest.mark.parametrize("verb", ["done", "claim", "renew"])
async def test_a_locked_row_fails_alone(
    ledgers: list[PostgresLedger], postgres_target: str, make_record: MakeRecord, verb: str
) -> None:
    """Of a batch only the call about the row that somebody keeps locked fails, soon, and is told in plain words."""
    ledger = ledgers[0]
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        await ledger.claim(key, 60)
        if verb == "claim":
            await ledger.release(key)
    calls: dict[str, Callable[[str], Awaitable[object]]] = {
        "done": lambda key: ledger.done(make_record(key)),
        "claim": lambda key: ledger.claim(key, 60),
        "renew": lambda key: ledger.renew([key], 60),
    }
    expected: dict[str, object] = {"done": True, "claim": Claimed(), "renew": []}
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("UPDATE mns_consumer_job SET failures = failures WHERE key = 'k7'")
        with anyio.fail_after(postgres_link.LOCK_TIMEOUT_S + 2):
            answers = await asyncio.gather(*(calls[verb](key) for key in keys), return_exceptions=True)
    refused = answers.pop(7)
    assert answers == [expected[verb]] * 19
    assert isinstance(refused, StoreError)
    told = str(refused)
    assert "another session keeps a row or a table locked; find it in pg_stat_activity, end it" in told
    assert told.endswith(f"; met by {verb} of 'k7'")
    assert await calls[verb]("k7") == expected[verb]


async def test_a_locked_table_fails_soon(
    ledgers: list[PostgresLedger], postgres_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While everything is locked, a large batch is not tried to its last call, one after the other."""
    monkeypatch.setattr(postgres, "_BLAME_S", 0.3)
    ledger = ledgers[0]
    await ledger.claim("k", 60)
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("LOCK TABLE mns_consumer_job")
        with anyio.fail_after(postgres_link.LOCK_TIMEOUT_S + 2):
            answers = await asyncio.gather(
                *(ledger.claim(f"k{number}", 60) for number in range(200)), return_exceptions=True
            )
    assert all(isinstance(answer, StoreError) and "locked" in str(answer) for answer in answers)
    assert len({id(answer) for answer in answers}) == 200
    assert await ledger.claim("k7", 60) == Claimed()


async def test_a_row_that_is_refused_fails_alone(
    ledgers: list[PostgresLedger], postgres_target: str, make_record: MakeRecord
) -> None:
    """A row that a constraint of somebody's own refuses takes no neighbour of its batch with it."""
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
    ledger = PostgresLedger(postgres_target)
    async with psql(postgres_target) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", postgres_schema._LOCK)
        opening = asyncio.ensure_future(ledger.open())
        await asyncio.sleep(postgres_link.LOCK_TIMEOUT_S + 0.3)
        assert not opening.done()
    await opening
    await ledger.close()


async def test_a_claim_whose_answer_got_lost(
    proxy: Proxy, postgres_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that went through unheard may be claimed again by its own holder, at once, and by no other."""
    ledger, other = PostgresLedger(proxy.dsn), PostgresLedger(postgres_target)
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


@pytest.fixture
def forget_claims(postgres_target: str) -> Callable[[], Awaitable[None]]:
    """Undo claims, as a crash of the database may: they are committed lazily."""

    async def forget() -> None:
        async with psql(postgres_target) as connection:
            await connection.execute("DELETE FROM mns_consumer_job WHERE dead IS NULL")

    return forget


async def test_a_claim_that_the_database_forgot_still_ends(
    ledgers: list[PostgresLedger],
    make_record: MakeRecord,
    make_letter: MakeLetter,
    forget_claims: Callable[[], Awaitable[None]],
) -> None:
    """The end of a claim whose row is gone is written all the same, once, and is the end for everybody."""
    first, second = ledgers[:2]
    for key in ("done", "dead"):
        assert await first.claim(key, 60) == Claimed()
    await forget_claims()
    assert [await first.done(make_record("done")) for _ in range(2)] == [True, True]
    assert [await first.bury(make_letter("dead")) for _ in range(2)] == [True, True]
    assert not await first.bury(make_letter("done"))
    assert await second.claim("done", 60) == Ended(dead=False)
    assert await second.claim("dead", 60) == Ended(dead=True)
    assert not await second.done(make_record("done"))
    operators = PostgresOperators(first._lanes[0].link._dsn)
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


@pytest.mark.parametrize("end", ["claimed", "done", "let go"])
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
        elif end == "let go":
            await second.release(key)
    assert not await first.done(make_record("done"))
    assert not await first.bury(make_letter("dead"))
    assert list(await first.renew(["renewed"], 60)) == ["renewed"]
    # Told so, it has no claim any more that could be made again.
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


async def test_a_renewal_that_is_answered_late(
    ledgers: list[PostgresLedger], postgres_target: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal whose answer comes after its key's end or failure does not make it held again."""
    ledger = ledgers[0]
    for key in ("done", "failed"):
        await ledger.claim(key, 60)
    connection = ledger._lanes[0].link._connection
    assert connection is not None
    real = type(connection).fetch
    answered, heard = asyncio.Event(), asyncio.Event()

    async def late(self: asyncpg.Connection, query: str, *arguments: object) -> object:
        rows = await real(self, query, *arguments)
        if self is connection and query == postgres_statements.RENEW:
            answered.set()
            await heard.wait()
        return rows

    monkeypatch.setattr(type(connection), "fetch", late)
    renewing = asyncio.ensure_future(ledger.renew(["done", "failed"], 60))
    await answered.wait()
    assert await ledger.done(make_record("done"))
    assert await ledger.fail("failed", "x") == 1
    heard.set()
    assert list(await renewing) == []
    # An operator's replay: the key is open again.
    async with psql(postgres_target) as other:
        await other.execute("DELETE FROM mns_consumer_job WHERE key = 'done'")
    assert await ledger.claim("done", 60) == Claimed()
    assert await ledger.claim("failed", 60) == Claimed(failures=1)


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
        batch = asyncio.gather(ledger.fail("k", "x"), ledger.done(make_record("slow")))
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


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        pytest.param("postgresql://u:hush@h:5/d", "postgresql://h:5/d", id="password"),
        pytest.param("postgresql://u:a%20hush%40@h:5/d", "postgresql://h:5/d", id="escaped"),
        pytest.param("postgresql://u:a@hush@h/d", "postgresql://h/d", id="not escaped"),
        pytest.param("postgresql://h/d?password=a%20hush%40", "postgresql://h/d", id="in the query"),
        pytest.param("postgresql:///d?host=/tmp", "postgresql://localhost/d", id="socket, no password"),
    ],
)
def test_addresses_hold_no_password(dsn: str, address: str) -> None:
    """Neither the address nor a driver's text that repeats what was set gives a password away."""
    assert postgres_link.describe(dsn) == address
    told = str(postgres_link.explain(address, dsn, OSError(f"cannot log in: {dsn} {unquote(dsn)}\nmore")))
    assert "hush" not in told
    assert "\n" not in told
    assert "it can't be reached" in told
