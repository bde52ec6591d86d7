"""The stand-in for a blocked event loop names the handler, renews leases, and never loses the newest receipt handle."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from pydantic import BaseModel, field_validator

from consumer.cloud.messages import DeleteFailure, Receipt
from consumer.config import Policy
from consumer.engine import loop_watch
from consumer.engine.complete import Completed
from consumer.engine.invoke import Threads
from consumer.engine.lane import Lane
from consumer.engine.lease import LeaseKeeper, Visibility
from consumer.engine.loop_watch import Blocker, LoopWatch, OwnLoop, StandIn, find_blocker
from consumer.engine.store_access import StoreAccess
from consumer.errors import CloudError, Fault
from consumer.ops.metrics import Metrics
from consumer.plugin.handler import Job, Limits, Note, build
from consumer.sandbox import Sandbox
from consumer.store.ledger import Claimed, Ledger
from tests.engine.rig import QUEUE, Serve, body, delivery, handlers, message
from tests.stores import ledger_at


class Orders:
    """A queue that hides one message; only its newest handle works.

    Args:
        answers_after_s: How long an answer takes.
    """

    def __init__(self, answers_after_s: float = 0.0) -> None:
        self.good = 0
        self.answers_after_s = answers_after_s
        self.refused: list[str] = []

    async def hide(self, handle: str, seconds: int) -> Receipt:
        if handle != str(self.good):
            self.refused.append(handle)
            raise CloudError(Fault.GONE, operation="hide", target="q", code="MessageNotExist", detail="dead")
        self.good += 1
        answer = Receipt(str(self.good), time.monotonic() + seconds)
        await asyncio.sleep(self.answers_after_s)
        return answer

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        raise AssertionError(handles)


JOB: Job = Job(function="Cover", job_id="1", state="Success", failed=False, code=None, message=None, user_data=None)


def plain(job: Job) -> None:
    """Does nothing."""


class Held:
    """One message that a queue holds, whose lease is due.

    Args:
        ledger: Where its claim is.
        orders: Its queue.
    """

    def __init__(self, ledger: Ledger, orders: Orders) -> None:
        self.orders = orders
        self.delivery = delivery(message("0", dequeue_count=2, lease_s=10))
        self.delivery.asks_for("k")
        self.delivery.claim_granted(Claimed())
        self.delivery.begin_run(build(plain, Note("Cover", Limits())), Completed(JOB, None, None))
        self.delivery.renew_next(time.monotonic())
        policy = Policy(lease_step_s=10)
        metrics = Metrics().queue("q")
        self.keeper = LeaseKeeper(Visibility(orders, "q"), StoreAccess(ledger), policy, metrics)
        self.keeper.keep(self.delivery)

        @asynccontextmanager
        async def open_orders() -> AsyncIterator[Orders]:
            yield orders

        parts = SimpleNamespace(
            identity="account/region/q",
            leases=self.keeper,
            deliveries={self.delivery},
            metrics=metrics,
            threads=Threads(slots=1),
            open_calls=open_orders,
        )
        self.lane = cast("Lane", parts)
        self.over = threading.Event()

    def block(self, seconds: float) -> None:
        """Block the event loop for a while."""
        time.sleep(seconds)
        self.over.set()

    def stand_in(self, ledger: Ledger) -> threading.Thread:
        """Stand in for the loop that runs here, until ``over``."""
        loop = asyncio.get_running_loop()
        standing = StandIn([self.lane], ledger, loop, self.over.is_set, None)

        def run() -> None:
            with asyncio.Runner(loop_factory=OwnLoop) as runner:
                runner.run(standing.run())

        thread = threading.Thread(target=run)
        thread.start()
        return thread


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    made = ledger_at(str(tmp_path / "ledger.db"))
    await made.open()
    await made.claim("k", 60)
    yield made
    await made.close()


async def test_the_loop_uses_the_handle_of_the_stand_in(ledger: Ledger) -> None:
    """After a renewal by the stand-in the loop renews and settles with the newest handle."""
    held = Held(ledger, Orders())
    thread = held.stand_in(ledger)
    held.block(0.15)
    thread.join(5)
    assert held.orders.good == 1
    async with held.delivery.lock:
        assert held.delivery.receipt.handle == "1"
    await held.keeper._renew(held.delivery)
    assert held.delivery.receipt.handle == "2"
    assert held.orders.refused == []


async def test_a_loop_that_wakes_amid_a_renewal_waits_for_its_handle(ledger: Ledger) -> None:
    """If the loop runs again during a renewal, it waits for the answer, so the handle is not lost."""
    held = Held(ledger, Orders(answers_after_s=0.3))
    thread = held.stand_in(ledger)
    held.block(0.15)
    assert held.delivery.receipt.handle == "0"
    assert held.delivery.lock.locked()
    with anyio.fail_after(5):
        await held.keeper._renew(held.delivery)
    assert held.delivery.receipt.handle == "2"
    assert held.orders.refused == []
    thread.join(5)
    assert not held.delivery.lock.locked()


async def test_an_order_of_the_loop_itself_is_left_alone(ledger: Ledger) -> None:
    """A handle that the loop is using when it is blocked is not used by the other thread."""
    held = Held(ledger, Orders())
    async with held.delivery.lock:
        thread = held.stand_in(ledger)
        held.block(0.15)
        thread.join(5)
        assert held.orders.good == 0
    with anyio.fail_after(5):
        await held.keeper._renew(held.delivery)
    assert held.delivery.receipt.handle == "1"


async def test_a_second_block_before_the_handle_was_taken_over_uses_it(ledger: Ledger) -> None:
    """If the loop is blocked again before it took the handle over, the stand-in uses that handle."""
    held = Held(ledger, Orders())
    for number in (1, 2):
        held.over.clear()
        thread = held.stand_in(ledger)
        held.block(0.15)
        thread.join(5)
        assert held.orders.good == number
    async with held.delivery.lock:
        assert held.delivery.receipt.handle == "2"
    assert held.orders.refused == []


async def test_a_task_that_waits_for_the_stand_in_may_be_cancelled(ledger: Ledger) -> None:
    """A task that is cancelled while it waits for the stand-in's answer leaves the lock free."""
    held = Held(ledger, Orders(answers_after_s=0.3))
    thread = held.stand_in(ledger)
    held.block(0.15)
    with anyio.move_on_after(0.05) as scope:
        await held.delivery.lock.acquire()
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        async with held.delivery.lock:
            assert held.delivery.receipt.handle == "1"
    thread.join(5)


async def look(serve: Serve, sandbox: Sandbox, handler: Callable[..., object], user_data: str = "") -> Blocker:
    """What the watch finds for a handler that waits for ``RELEASE``."""
    found: list[Blocker] = []
    main = threading.get_ident()
    sandbox.put(QUEUE, body("d" * 32, UserData=user_data).decode())
    async with serve(handlers(Cover=handler)) as daemon:

        def watch() -> None:
            BEGUN.wait(10)
            found.append(find_blocker(sys._current_frames()[main], daemon.app.lanes))
            RELEASE.set()

        thread = threading.Thread(target=watch)
        thread.start()
        await daemon.emptied()
        thread.join(5)
    return found[0]


BEGUN = threading.Event()
RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BEGUN.clear()
    RELEASE.clear()


def block() -> None:
    BEGUN.set()
    RELEASE.wait(5)


async def test_the_job_of_a_blocking_handler_is_named(sandbox: Sandbox, serve: Serve) -> None:
    """The handler's function and job are named, and the stack begins with the handler."""

    async def cover(job: Job) -> None:
        block()

    found = await look(serve, sandbox, cover)
    assert (found.function, found.job_id) == ("Cover", "d" * 32)
    assert found.delivery is not None
    assert "in cover" in found.stack.splitlines()[0]
    assert "RELEASE.wait(5)" in found.stack


class Slow(BaseModel):
    """UserData whose validation blocks."""

    name: str

    @field_validator("name")
    @classmethod
    def _checked(cls, name: str) -> str:
        block()
        return name


async def test_the_job_of_a_blocking_validator_is_named(sandbox: Sandbox, serve: Serve) -> None:
    """A validator that blocks before the handler is called is named with its job."""

    async def cover(job: Job[None, Slow]) -> None:
        pass

    found = await look(serve, sandbox, cover, '{"name": "n"}')
    assert (found.function, found.job_id) == ("Cover", "d" * 32)
    assert "in _checked" in found.stack


async def test_a_handler_that_blocks_in_a_task_of_its_own_is_found_where_it_is_the_only_one(
    sandbox: Sandbox, serve: Serve
) -> None:
    """A child task's stack names no job; if only one handler runs, its job is named."""

    async def child() -> None:
        block()

    async def cover(job: Job) -> None:
        await asyncio.create_task(child())

    found = await look(serve, sandbox, cover)
    assert found.function == ""
    assert found.delivery is not None
    assert "in child" in found.stack


async def test_an_idle_daemon_has_no_heartbeat(sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch beats only while a message is in flight."""
    monkeypatch.setattr(loop_watch, "BEAT_S", 0.05)

    async def cover(job: Job) -> None:
        await anyio.sleep(0.2)

    async with serve(handlers(Cover=cover)) as daemon:
        watch: LoopWatch = daemon.app._watch
        assert not watch._beating
        sandbox.put(QUEUE, body().decode())
        await daemon.until(lambda: watch._beating)
        await daemon.until(lambda: not watch._beating)
        assert not watch._work.is_set()
