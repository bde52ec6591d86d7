"""The tests of this folder use a clock that moves only when all tasks wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from consumer.app import App
from consumer.config import load
from consumer.engine import store_access
from consumer.plugin.registry import Registry
from consumer.submissions import reconcile
from tests.in_memory.clock import Clock
from tests.in_memory.ledger import MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Daemon, Serve, Surroundings
from tests.in_memory.submissions import no_submissions


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def anyio_backend(clock: Clock) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
    return "asyncio", {"loop_factory": clock.make_loop}


@pytest.fixture
async def around(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """The queue, store and MPS that the daemons of a test share."""
    made = Surroundings()
    monkeypatch.setattr("consumer.app.make_ledger", lambda *_, **__: made.store.ledger())
    monkeypatch.setattr("consumer.app.open_submissions", no_submissions)
    monkeypatch.setattr("consumer.app.open_clients", made.clients)
    # No disk hangs here, and nothing is submitted; to look for it would be most of the work of an hour that passes.
    monkeypatch.setattr(store_access, "_LOOK_S", 60.0)
    monkeypatch.setattr(reconcile, "_LONGEST_PAUSE_S", 3600.0)
    return made


@pytest.fixture
def queue(around: Surroundings) -> MemoryQueue:
    return around.queue


@pytest.fixture
def store(around: Surroundings) -> MemoryStore:
    return around.store


@pytest.fixture
def serve(around: Surroundings, tmp_path: Path) -> Serve:
    """Serve the queue with a registry, until the block ends."""

    @asynccontextmanager
    async def serving(registry: Registry, **settings: object) -> AsyncIterator[Daemon]:
        flags: dict[str, object] = {
            "notify_url": f"mns://1.mns.cn-hangzhou.aliyuncs.com/queues/{around.queue.name}",
            "access_key_id": "sandbox",
            "access_key_secret": "sandbox",
            "store": str(tmp_path / "never-opened.db"),
            "admin": False,
        }
        app = App(load(flags | settings), registry)
        daemon = Daemon(app, around.queue, around.store, around.mps)

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
