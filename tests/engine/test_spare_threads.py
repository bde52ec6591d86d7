"""The event loop's executor has its threads from the start, and refuses no work if no thread can be started."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import cast

import pytest

from consumer.daemon import SpareThreads
from consumer.ops.traces import Traces
from tests.engine.rig import Serve, handlers


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started from now on, as where the machine has none left."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_work_is_done_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beyond the number of threads waits; each piece is done once, and none is refused."""

    async def all_of_them() -> list[int]:
        asyncio.get_running_loop().set_default_executor(spare)

        def one(number: int) -> int:
            time.sleep(0.01)
            return number

        return await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(20)))

    spare = SpareThreads()
    with monkeypatch.context() as inner:
        refuse_threads(inner)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(all_of_them()) == list(range(20))
        loop.close()
    spare.shutdown()


def test_without_any_thread_there_is_no_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """If not even the first thread can be started, the executor is not made."""
    refuse_threads(monkeypatch)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        SpareThreads()


class Unsent:
    """A stand-in for the traces: it counts how often it is closed."""

    closed = 0

    def close(self, within_s: float) -> None:
        """Send what is left."""
        assert within_s > 0
        self.closed += 1


async def test_traces_are_sent_when_no_thread_can_be_started(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a stop the remaining traces are sent on the event loop if no thread can be started."""
    unsent = Unsent()
    async with serve(handlers()) as daemon:
        app = daemon.app
        app._shared = replace(app._shared, traces=cast("Traces", unsent))
        with monkeypatch.context() as inner:
            refuse_threads(inner)
            await daemon.stop()
    assert unsent.closed == 1
