"""A sandbox, and a daemon of this process on one of its queues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from consumer.app import App
from consumer.config import load
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Daemon, Serve
from tests.postgres import ADDRESS, postgres_schema, postgres_store
from tests.tcp_proxy import TcpProxy, in_front_of


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.on_free_port(job_s=0.05) as running:
        running.account.ensure(QUEUE)
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """The setting that names the store, on each engine in turn."""
    if request.param == "sqlite":
        yield {}
    else:
        with postgres_store() as address:
            yield {"store": address}


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    """A proxy in front of the database."""
    async with in_front_of(ADDRESS) as running:
        yield running


@pytest.fixture
def schema() -> Iterator[str]:
    with postgres_schema() as name:
        yield name


@pytest.fixture
def serve(sandbox: Sandbox, tmp_path: Path) -> Serve:
    """Serve the sandbox's queue with a registry, until the block ends."""

    @asynccontextmanager
    async def serving(registry: Registry, **settings: object) -> AsyncIterator[Daemon]:
        store = tmp_path / "ledger.db"
        flags: dict[str, object] = {
            "notify_url": sandbox.notify_url(QUEUE),
            "endpoint": sandbox.url,
            "access_key_id": "sandbox",
            "access_key_secret": "sandbox",
            "store": str(store),
            "admin": False,
            "wait_s": 2,
        }
        app = App(load(flags | settings), registry)
        daemon = Daemon(app, sandbox, store)

        async def run(started: anyio.Event) -> None:
            try:
                with daemon.task:
                    await app.serve(started=started)
            finally:
                daemon.ended.set()

        async with anyio.create_task_group() as tasks:
            started = anyio.Event()
            tasks.start_soon(run, started)
            with anyio.fail_after(10):
                await started.wait()
            yield daemon
            if not app.vitals.stopping:
                app.stop()
            app.stop()

    return serving
