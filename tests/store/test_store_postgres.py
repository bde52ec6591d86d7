"""The store in a database: several daemons, and the errors of a database that can't be used."""

import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from urllib.parse import unquote, urlsplit, urlunsplit

import anyio
import asyncpg
import pytest

from consumer.errors import ExitCode, StoreError, StoreSchemaError
from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Ended, Filter, JobRecord
from consumer.store.open import make_operators
from consumer.store.postgres import connection as postgres_connection
from consumer.store.postgres import statements as postgres_statements
from consumer.store.postgres.database import PostgresDatabase
from consumer.store.postgres.ledger import PostgresLedger
from consumer.store.queries import Operators, PostgresEngine
from consumer.store.rows import SCHEMA_REVISION
from tests.store.postgres_rig import at, psql
from tests.store.records import ended, run

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


async def test_one_of_many_runs_each_key(
    ledgers: list[PostgresLedger], make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """Of daemons that race for the same keys each gets some, no key is claimed twice, and none hangs."""
    keys = [f"k{number}" for number in range(300)]
    runs: list[tuple[int, str]] = []

    async def live(number: int, key: str) -> None:
        ledger = ledgers[number]
        answer = await ledger.claim(key, 60)
        if isinstance(answer, Claimed):
            runs.append((number, key))
            await ledger.start(key)
            assert await (ledger.set_aside(make_letter(key)) if key.endswith("3") else ledger.done(make_record(key)))

    orders = [keys, keys[::-1], keys[150:] + keys[:150], keys[::2] + keys[1::2]]
    async with anyio.create_task_group() as tasks:
        for number, order in enumerate(orders):
            for key in order:
                tasks.start_soon(live, number, key)
    assert sorted(key for _, key in runs) == sorted(keys)
    assert all([isinstance(await ledgers[0].claim(key, 60), Ended) for key in keys[:20]])


async def test_two_holders(ledgers: list[PostgresLedger], make_record: MakeRecord, make_letter: MakeLetter) -> None:
    """A claim excludes others until it ends; after another claim its first holder has lost it."""
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
    assert not await first.set_aside(make_letter("k"))
    assert await first.fail(run("k", "x")) == 0
    assert await first.start("k") == 1
    await first.release("k")
    assert await second.start("k") == 2
    assert await second.done(make_record("k"))
    assert not await first.done(make_record("k"))
    assert await first.claim("k", 60) == ended(dead=False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(("/test", "/no_such_database"), "there is no such database; create it", id="database"),
        pytest.param(("search_path=", "search_path=no_such_"), "there is no such schema; create it", id="schema"),
        pytest.param(
            ("search_path=", "default_transaction_read_only=on&search_path="), "takes no writes", id="standby"
        ),
        pytest.param(("127.0.0.1", "no-such-host.invalid"), "can't be reached", id="host"),
        pytest.param(("search_path=", "no_setting=1&search_path="), "it refused the call .*no_setting", id="setting"),
    ],
)
async def test_what_is_wrong_in_plain_words(postgres_target: str, change: tuple[str, str], problem: str) -> None:
    """Each common mistake has an error of its own."""
    dsn = postgres_target.replace(*change)
    if dsn == postgres_target:
        pytest.skip("the server's address has no part to change here")
    with pytest.raises(StoreError, match=problem):
        await PostgresLedger(at(dsn)).open()


async def test_a_newer_schema(postgres_target: str) -> None:
    """A schema of a newer version is refused, by the daemon and by operators."""
    ledger = PostgresLedger(at(postgres_target))
    await ledger.open()
    await ledger.close()
    connection = await asyncpg.connect(postgres_target)
    await connection.execute("UPDATE mns_consumer_revision SET version_num = '9999'")
    await connection.close()
    operators = make_operators(at(postgres_target))
    for call in (ledger.open, lambda: operators.count_letters(Filter())):
        with pytest.raises(StoreSchemaError, match=f"of revision 9999, this program those of {SCHEMA_REVISION}"):
            await call()
    await operators.close()


async def test_a_schema_of_before_the_first_release(postgres_target: str) -> None:
    """Tables of an early version are refused with how to save their dead letters, and not touched."""
    async with psql(postgres_target) as connection:
        await connection.execute("CREATE TABLE mns_consumer_schema (version integer NOT NULL)")
        await connection.execute("INSERT INTO mns_consumer_schema VALUES (3)")
    operators = make_operators(at(postgres_target))
    for call in (PostgresLedger(at(postgres_target)).open, lambda: operators.count_letters(Filter())):
        with pytest.raises(
            StoreSchemaError, match=r"before the first release, .* export --out FILE\), then drop its tables"
        ):
            await call()
    await operators.close()
    async with psql(postgres_target) as connection:
        assert await connection.fetchval("SELECT to_regclass('mns_consumer_job')") is None


@pytest.fixture
async def latin_target(postgres_target: str) -> AsyncIterator[str]:
    """The address of a database that can't store all text."""
    name = f"mns_consumer_test_{secrets.token_hex(6)}"
    async with psql(postgres_target) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        yield urlunsplit(urlsplit(postgres_target)._replace(path=f"/{name}", query=""))
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_that_can_not_store_all_text(latin_target: str) -> None:
    """A database of another encoding than UTF8 is refused as a fault of the settings, and nothing is made in it."""
    for _ in range(2):
        with pytest.raises(StoreSchemaError) as caught:
            await PostgresLedger(at(latin_target)).open()
        text = str(caught.value)
        assert "has the encoding LATIN1, expected UTF8; name a database that was made by CREATE DATABASE" in text
        assert "\n" not in text
        assert caught.value.exit_code is ExitCode.SETTINGS
    async with psql(latin_target) as connection:
        assert await connection.fetchval("SELECT to_regclass('mns_consumer_revision')") is None


@pytest.mark.parametrize(("set_up", "kept"), [("off", "on"), ("local", "local"), ("on", "on")])
async def test_commits_are_durable(postgres_target: str, make_record: MakeRecord, set_up: str, kept: str) -> None:
    """Claims, ends and operators' marks wait for the server's disk, also where its configuration turns that off."""
    target = f"{postgres_target}&synchronous_commit={set_up}"
    ledger, database = PostgresLedger(at(target)), PostgresDatabase(at(target))
    await ledger.open()
    await ledger.claim("k", 60)
    await ledger.done(make_record("k"))
    await Operators(database, PostgresEngine()).count_letters(Filter())
    links = [*(lane.link for lane in ledger._lanes), ledger._upkeep, database._link]
    shown = [await link.run(lambda connection: connection.fetchval("SHOW synchronous_commit")) for link in links]
    assert shown == [kept] * 4
    await ledger.close()
    await database.close()


async def test_a_refused_call_harms_nothing(ledgers: list[PostgresLedger], make_record: MakeRecord) -> None:
    """If the server refuses a call, the caller gets the reason, and the connection is used again."""
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


@pytest.mark.parametrize("name", ["CLAIM", "RENEW", "DONE", "SET_ASIDE"])
async def test_look_ups_read_an_index(ledgers: list[PostgresLedger], name: str) -> None:
    """No statement of a message reads a whole table, even with plans made while the tables are empty."""

    async def plan(connection: asyncpg.Connection) -> str:
        statement = getattr(postgres_statements, name)
        values = {"bytea[]": b"x", "text[]": "k", "float8[]": 1.0, "bigint[]": 1, "boolean[]": True}
        arrays = [[values[kind]] * 16 for kind in re.findall(r"\$\d+::(\w+\[\])", statement)]
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", "holder", *arrays))

    plan_text = await ledgers[0]._lanes[1].link.run(plan)
    assert "Index Scan" in plan_text or "Index Only Scan" in plan_text
    assert "Seq Scan on mns_consumer_job" not in plan_text


async def test_counting_letters_reads_their_index(ledgers: list[PostgresLedger]) -> None:
    """The table, which has the bodies, is not read as a whole."""
    link = ledgers[0]._upkeep
    plan = await link.run(lambda connection: connection.fetch(f"EXPLAIN {postgres_statements.COUNT_WAITING}"))
    text = "\n".join(row[0] for row in plan)
    assert "mns_consumer_letter_waiting" in text
    assert "Seq Scan" not in text


async def test_replicas_share_the_hooks(ledgers: list[PostgresLedger], make_letter: MakeLetter) -> None:
    """Of daemons that take due hooks at the same time each letter goes to one, and none waits for another."""
    for number in range(40):
        await ledgers[0].claim(f"k{number}", 60)
        await ledgers[0].set_aside(replace(make_letter(f"k{number}"), hook_at=0.0))
    queue = make_letter("k").job.queue
    taken: list[int] = []

    async def take_all(ledger: PostgresLedger) -> None:
        while some := await ledger.take_due_hooks(queue, limit=3, least_s=60, most_s=3600):
            taken.extend(one.id for one in some)

    async with anyio.create_task_group() as tasks:
        for ledger in ledgers:
            tasks.start_soon(take_all, ledger)
    assert sorted(taken) == list(range(1, 41))


async def test_due_hooks_read_their_index(ledgers: list[PostgresLedger]) -> None:
    """Looking for due hooks reads none of the letters that have none."""
    link = ledgers[0]._upkeep
    plan = await link.run(
        lambda connection: connection.fetch(f"EXPLAIN {postgres_statements.TAKE_DUE_HOOKS}", "q", 4, 60.0, 3600.0)
    )
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using mns_consumer_letter_hook" in text
    assert "Seq Scan on mns" not in text


@pytest.mark.parametrize("statement", [*postgres_statements._PRUNE, postgres_statements._PRUNE_LETTERS])
async def test_a_step_of_pruning_reads_an_index(ledgers: list[PostgresLedger], statement: str) -> None:
    """No step of pruning reads more of an index than it removes."""
    link = ledgers[0]._upkeep
    plan = await link.run(lambda connection: connection.fetch(f"EXPLAIN {statement}", 1.0, 2))
    assert re.search(r"Index Cond: \(\w+_at <= ", "\n".join(row[0] for row in plan))


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        pytest.param("postgresql://u:hush@h:5/d", "postgresql://h:5/d", id="password"),
        pytest.param("postgresql://u:a%20hush%40@h:5/d", "postgresql://h:5/d", id="escaped"),
        pytest.param("postgresql://h/d?password=a%20hush%40", "postgresql://h:5432/d", id="in the query"),
        pytest.param("postgresql:///d?host=/tmp", "postgresql:///d?host=/tmp", id="socket, no password"),
    ],
)
def test_addresses_hold_no_password(dsn: str, address: str) -> None:
    """Neither the address nor a driver's text that repeats what was set gives a password away."""
    to = at(dsn)
    assert str(to) == address
    assert "hush" not in repr(to)
    text = str(postgres_connection.explain(to, OSError(f"cannot log in: {dsn} {unquote(dsn)}\nmore")))
    assert "hush" not in text
    assert "\n" not in text
    assert "it can't be reached" in text
