"""A clock that moves only when every task waits for it: hours pass in milliseconds, and repeatably.

``Clock.install`` replaces the functions of ``time`` and ``anyio.to_thread`` that depend on time. ``make_loop`` makes an
event loop on the same clock. Sockets and threads use real time: bytes that a socket of this process has sent arrive
before the clock moves, and while a worker thread of ``anyio.to_thread`` works the clock does not move.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_START_S = 1_000.0
_WALL_S = 1_800_000_000.0
_REAL_PAUSE_S = 0.001
_REAL_LOOK_S = 0.5


class Clock:
    """Monotonic time from 1,000 s on, and the wall's from 2027 on."""

    def __init__(self) -> None:
        self.now_s = _START_S
        self.wall_offset_s = _WALL_S - _START_S
        """The wall clock minus the monotonic one; a test may step the wall clock by it."""
        self._working = 0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """In place of ``time.monotonic``."""
        return self.now_s

    def time(self) -> float:
        """In place of ``time.time``."""
        return self.now_s + self.wall_offset_s

    def time_ns(self) -> int:
        """In place of ``time.time_ns``."""
        return round(self.time() * 1e9)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make everything that reads the time through the module ``time`` read this clock."""
        monkeypatch.setattr(time, "monotonic", self.monotonic)
        monkeypatch.setattr(time, "time", self.time)
        monkeypatch.setattr(time, "time_ns", self.time_ns)
        monkeypatch.setattr(anyio.to_thread, "run_sync", partial(self._run_sync, anyio.to_thread.run_sync))

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop whose timers follow this clock."""
        return _Loop(self)

    def sleep(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """In place of ``time.sleep`` in a worker thread: return when the clock has moved that far."""
        over = threading.Event()

        def wake() -> None:
            self._count(1)
            over.set()

        loop.call_soon_threadsafe(loop.call_later, seconds, wake)
        self._count(-1)
        while not over.wait(_REAL_LOOK_S):
            if loop.is_closed():
                raise RuntimeError("the test ended while its thread slept")

    @property
    def stands_still(self) -> bool:
        """Whether a worker thread is at work."""
        return self._working > 0

    async def _run_sync(
        self,
        run_sync: Callable[..., Awaitable[Any]],
        function: Callable[..., object],
        *args: object,
        limiter: anyio.CapacityLimiter | None = None,
        abandon_on_cancel: bool = False,
    ) -> Any:
        # Counted only once the limiter lets it begin: who waits for a thread must not stop the clock.
        async with limiter or anyio.to_thread.current_default_thread_limiter():
            self._count(1)
            try:
                own = anyio.CapacityLimiter(1)
                return await run_sync(function, *args, limiter=own, abandon_on_cancel=abandon_on_cancel)
            finally:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._working += change


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now_s


class _Selector(selectors.BaseSelector):
    """It never waits: where the loop would wait for its next timer, the clock jumps to it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey] | None:  # type: ignore[override]
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            # No timer: only a thread can wake the loop.
            return self._real.select(None)
        is_waiting = True
        while is_waiting:
            # Read before the look: a thread first leaves its message for the loop, then stops working.
            is_waiting = self._clock.stands_still
            if ready := self._real.select(_REAL_PAUSE_S if is_waiting else 0):
                return ready
        self._clock.now_s += timeout
        return []
