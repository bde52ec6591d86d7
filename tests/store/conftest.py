"""Places for stores: a file in a folder of the test's own, a schema of the test's own in a PostgreSQL server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from consumer.store.ledger import DeadLetterRecord, JobRecord, Ledger
from consumer.store.postgres.ledger import PostgresLedger
from consumer.store.queries import Operators
from tests.in_memory.ledger import MemoryOperators, MemoryStore
from tests.pooler import Pooler, pooler
from tests.postgres import postgres_schema, postgres_store
from tests.store.postgres_rig import at
from tests.store.records import letter, record
from tests.stores import ledger_at, operators_at
from tests.tcp_proxy import TcpProxy, in_front_of, through

Holder = Callable[[], Awaitable[Ledger]]
MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]
MEMORY = "memory"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pooler and the ledger in memory are the same on every event loop: with one is enough."""
    items[:] = [
        item for item in items if not ("uvloop" in item.name and ("pooled" in item.name or "memory" in item.name))
    ]


@pytest.fixture
def make_record() -> MakeRecord:
    return record


@pytest.fixture
def make_letter() -> MakeLetter:
    return letter


@pytest.fixture
def postgres_target() -> Iterator[str]:
    with postgres_store() as target:
        yield target


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture(scope="session")
def shared_pooler() -> Iterator[Pooler]:
    with pooler() as running:
        yield running


@pytest.fixture
def pooled_target(shared_pooler: Pooler) -> Iterator[str]:
    with postgres_schema() as schema:
        yield shared_pooler.store(schema)


@pytest.fixture(params=["sqlite", "postgres", "pooled"])
def target(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """Where a store may be: on each engine in turn, and on PostgreSQL behind a pooler."""
    if request.param == "sqlite":
        return str(sqlite_path)
    if request.param == MEMORY:
        return MEMORY
    found: str = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_holder(target: str, memory: MemoryStore) -> Callable[[], Ledger]:
    """Make one more ledger on the same store; not open yet."""
    return memory.ledger if target == MEMORY else partial(ledger_at, target)


@pytest.fixture
async def ledger(make_holder: Callable[[], Ledger]) -> AsyncIterator[Ledger]:
    """The only holder."""
    made = make_holder()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def operators(target: str, memory: MemoryStore) -> AsyncIterator[Operators]:
    in_memory = cast("Operators", MemoryOperators(memory))
    made = in_memory if target == MEMORY else operators_at(target)
    yield made
    await made.close()


@pytest.fixture
async def successor(target: str, ledger: Ledger, make_holder: Callable[[], Ledger]) -> AsyncIterator[Holder]:
    """Another holder on the same store, after the first. On SQLite the first must end, since it owns the file."""
    async with AsyncExitStack() as stack:

        async def make() -> Ledger:
            if "://" not in target and target != MEMORY:
                await ledger.close()
            made = make_holder()
            await made.open()
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
async def proxy(postgres_target: str) -> AsyncIterator[TcpProxy]:
    async with in_front_of(postgres_target) as made:
        yield made


@pytest.fixture
def proxied(proxy: TcpProxy, postgres_target: str) -> str:
    """The store's address through the proxy, with a password that must not be shown anywhere."""
    return through(proxy, postgres_target, "hush%40hush")


@pytest.fixture
async def ledgers(postgres_target: str) -> AsyncIterator[list[PostgresLedger]]:
    """Four daemons that start at once on an empty schema."""
    made = [PostgresLedger(at(postgres_target)) for _ in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in made))
    yield made
    await asyncio.gather(*(ledger.close() for ledger in made))
