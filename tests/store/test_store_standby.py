"""Claims kept from another thread while the ledger's own event loop is blocked, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from consumer.store.ledger import Claimed, Elsewhere, Ledger, Standby

Successor = Callable[[], Awaitable[Ledger]]


def in_another_thread(ledger: Ledger, work: Callable[[Standby], Awaitable[object]]) -> object:
    """The result of some work in a thread; the event loop of the test is blocked meanwhile."""
    answers: list[object] = []

    async def run() -> None:
        standby = ledger.standby()
        try:
            answers.append(await work(standby))
        finally:
            await standby.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(10)
    return answers[0]


async def test_a_claim_is_renewed_while_the_loop_is_blocked(ledger: Ledger) -> None:
    """A claim that another thread renews does not end, and the blocked ledger knows it when its loop runs again."""
    await ledger.claim("k", 0.3)
    assert in_another_thread(ledger, lambda standby: standby.renew(["k"], 60)) in ([], ())
    await asyncio.sleep(0.4)
    answer = await ledger.claim("k", 60)
    assert isinstance(answer, Elsewhere)
    assert answer.remaining_s > 50


async def test_a_start_is_taken_back_and_its_claim_stays(ledger: Ledger, successor: Successor) -> None:
    """A start that another thread takes back counts no more, and the claim stays; a key without one is left alone."""
    for key in ("k", "other"):
        await ledger.claim(key, 0.3)
        await ledger.start(key)
    in_another_thread(ledger, lambda standby: standby.take_back_starts(["k", "unknown"]))
    assert list(await ledger.renew(["k", "other"], 0.3)) == []
    after = await successor()
    await asyncio.sleep(0.4)
    assert [await after.claim(key, 60) for key in ("k", "other")] == [Claimed(starts=0), Claimed(starts=1)]


async def test_a_start_that_was_taken_back_may_be_written_down_again(ledger: Ledger, successor: Successor) -> None:
    """A run that goes on after its start was taken back is written down as started once more."""
    await ledger.claim("k", 0.3)
    await ledger.start("k")
    in_another_thread(ledger, lambda standby: standby.take_back_starts(["k"]))
    assert await ledger.start("k") == 1
    after = await successor()
    await asyncio.sleep(0.4)
    assert await after.claim("k", 60) == Claimed(starts=1)
