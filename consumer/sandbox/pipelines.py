"""Pipelines: the queues of MPS in which jobs wait for one of the slots that run them.

Source: facts/iproduction.md#job-limits, facts/iproduction.md#pipelines.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_QUEUED: Final = 10_000
"""Jobs that wait in one pipeline at most. Source: facts/iproduction.md#job-limits."""


class PipelineSettings(BaseModel):
    """What can be set on a pipeline.

    Attributes:
        concurrency: Jobs that are Analysing at once.
        state: In a ``Paused`` pipeline no job starts; those that run go on.
        notify_queue: The queue of its own, which gets the notification of a job that names no other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 10
    state: Literal["Active", "Paused"] = "Active"
    notify_queue: Annotated[str | None, Field(min_length=1)] = None


class Pipeline:
    """One pipeline: jobs start in the order in which they came for a slot."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        self.queued = 0
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether it takes no more jobs."""
        return self.queued >= MOST_QUEUED

    def change(self, settings: PipelineSettings) -> None:
        """Replace its settings; jobs that may start now do."""
        self.settings = settings
        self._start()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot, and keep it inside the block."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._start()
        try:
            await waiter
            yield
        finally:
            if waiter.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(waiter)
            else:
                self.running -= 1
                self._start()

    def _start(self) -> None:
        while self._waiting and self.settings.state == "Active" and self.running < self.settings.concurrency:
            waiter = self._waiting.popleft()
            if not waiter.cancelled():
                self.running += 1
                waiter.set_result(None)
