"""What the tests of the engine share: notifications, registries, and a daemon of this process to look into."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from consumer.app import App
from consumer.cloud.messages import Message, Receipt
from consumer.config import load
from consumer.engine.delivery import Delivery
from consumer.engine.lane import make_rules
from consumer.engine.slots import Slot, Slots
from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from consumer.store.ledger import Filter, StoredLetter
from tests.stores import operators_at

QUEUE = "jobs"


def body(job_id: str = "a" * 32, function: str = "Cover", **more: object) -> bytes:
    """A notification as MPS puts it into a queue."""
    fields = {"Type": "IProduction", "FunctionName": function, "JobId": job_id, "State": "Success", "Code": "Success"}
    return base64.b64encode(json.dumps(fields | more).encode())


def handlers(**functions: Callable[[Job[Any, Any]], object]) -> Registry:
    """A registry of functions by FunctionName, without limits of their own."""
    return Registry({name: build(function, Note(name, Limits())) for name, function in functions.items()})


def message(handle: str = "handle", *, dequeue_count: int = 1, lease_s: float = 60) -> Message:
    """A message that was received just now."""
    receipt = Receipt(handle, time.monotonic() + lease_s)
    return Message("id", base64.b64decode(body()), time.time(), time.time(), dequeue_count, 8, None, {}, {}, receipt)


def delivery(received: Message | None = None) -> Delivery:
    """A delivery outside any queue."""
    rules = make_rules(load({}).policy(), Registry({}))
    return Delivery(received or message(), rules, Slot(Slots(1)), retention_s=345_600)


class Runs:
    """A handler that sleeps, and how often it ran and was cut short."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = self.ended = self.cut = 0

    async def once(self) -> None:
        """Run."""
        self.begun += 1
        try:
            await anyio.sleep(self.seconds)
            self.ended += 1
        except anyio.get_cancelled_exc_class():
            self.cut += 1
            raise


class Rollback:
    """A handler with something to roll back.

    Args:
        rollback_s: How long that takes.
    """

    def __init__(self, rollback_s: float = 0.3) -> None:
        self.rollback_s = rollback_s
        self.begun = anyio.Event()
        self.cancelled = self.rolled_back = 0

    async def __call__(self, _job: Job) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(240)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            # Cancelled a second time, this would not come to its end.
            await asyncio.sleep(self.rollback_s)
            self.rolled_back += 1


class Served:
    """What every daemon of a test can be asked."""

    app: App
    ended: anyio.Event

    def count(self, name: str, **labels: str) -> float:
        """The value of one metric; 0 if it was never counted."""
        return self.app.metrics.registry.get_sample_value(f"mns_consumer_{name}", labels) or 0.0

    async def stop(self) -> float:
        """Stop and return the seconds that it took."""
        began_at = time.monotonic()
        self.app.stop()
        await self.ended.wait()
        return time.monotonic() - began_at


@dataclass
class Daemon(Served):
    """An app that serves one queue of a sandbox.

    Args:
        app: The app.
        sandbox: The sandbox.
        store: Its ledger's file.
        ended: Set once it has ended.
        task: Cancels it all at once.
    """

    app: App
    sandbox: Sandbox
    store: Path
    ended: anyio.Event = field(default_factory=anyio.Event)
    task: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def until(self, holds: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until a condition holds; fail if it does not in time."""
        with anyio.fail_after(within_s):
            while not holds():  # noqa: ASYNC110 - what is waited for is another process's or task's affair
                await anyio.sleep(0.01)

    async def emptied(self, within_s: float = 10.0) -> None:
        """Wait until the queue is empty."""
        await self.until(lambda: not self.sandbox.messages(QUEUE), within_s)

    async def letters(self) -> list[StoredLetter]:
        """The dead letters."""
        operators = operators_at(str(self.store))
        try:
            return list(await operators.list_letters(Filter(), limit=1000))
        finally:
            await operators.close()


Serve = Callable[..., AbstractAsyncContextManager[Daemon]]
