"""A daemon of this process on a queue, a store and an MPS in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import anyio.lowlevel

from consumer.app import App
from consumer.cloud.clients import Clients
from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import JobStatus, Mps
from consumer.errors import CloudError, Fault
from tests.engine.rig import Served
from tests.in_memory.ledger import MemoryStore
from tests.in_memory.queue import MemoryQueue


class MemoryMps:
    """Answers with the jobs that a test added, and fails as it orders."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobStatus] = {}
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self.bad: set[str] = set()
        """Jobs that it fails for."""

    def add(self, job_id: str, **fields: Any) -> None:
        """Put a job in."""
        values: dict[str, Any] = {
            "function": "Cover",
            "state": "Success",
            "input": None,
            "output": None,
            "result": None,
            "user_data": None,
            "found": True,
        }
        self.jobs[job_id] = JobStatus(job_id, **(values | fields))

    async def query(self, job_id: str) -> JobStatus:
        """See ``Mps.query``."""
        self.asked.append(job_id)
        await anyio.lowlevel.checkpoint()
        if self.faults or job_id in self.bad:
            fault = self.faults.pop(0) if self.faults else Fault.SERVER
            raise CloudError(fault, operation="QueryIProductionJob", target="mps", code="Failing", detail="as wanted")
        if job_id not in self.jobs:
            self.add(job_id, found=False)
        return self.jobs[job_id]

    async def warm_up(self) -> None:
        """See ``Mps.warm_up``."""


@dataclass
class Daemon(Served):
    """An app that serves one queue.

    Args:
        ended: Set once it has ended.
        task: Cancels it all at once.
    """

    app: App
    queue: MemoryQueue
    store: MemoryStore
    mps: MemoryMps
    ended: anyio.Event = field(default_factory=anyio.Event)
    task: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def until(self, holds: Callable[[], object], within_s: float = 600.0) -> None:
        """Wait until a condition holds; fail if it does not in time."""
        look_s = 0.01
        with anyio.fail_after(within_s):
            while not holds():
                await anyio.sleep(look_s)
                look_s = min(1.0, look_s * 1.05)

    async def emptied(self, within_s: float = 600.0) -> None:
        """Wait until the queue is empty."""
        await self.until(lambda: not self.queue.messages, within_s)


@dataclass
class Surroundings:
    """What a daemon works with; it outlives the daemon."""

    queue: MemoryQueue = field(default_factory=MemoryQueue)
    store: MemoryStore = field(default_factory=MemoryStore)
    mps: MemoryMps = field(default_factory=MemoryMps)

    @asynccontextmanager
    async def clients(self, *_: object, **__: object) -> AsyncIterator[Clients]:
        """In place of ``open_clients``."""
        yield Clients(
            cast("MnsQueue", self.queue), cast("Mps", self.mps), StaticCredentials(Keys("sandbox", "sandbox"))
        )


Serve = Callable[..., AbstractAsyncContextManager[Daemon]]
