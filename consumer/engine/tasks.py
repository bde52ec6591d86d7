"""Plain asyncio tasks in great numbers, all of which end together.

A task of a task group costs 18 us more (bench ablation "task-group"), and there is one for every message. What a group
guarantees is here too: nothing outlives ``end``, which first gives the tasks some time, then cancels them, and does not
wait for ever for a handler that ignores its cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

log = structlog.stdlib.get_logger(__name__)

_LAST_S: Final = 0.5
"""How long a task has to end once it is cancelled."""


class Tasks:
    """Tasks that end together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Start one; it must handle its own exceptions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self, within_s: float) -> None:
        """Return when all have ended, or have been cancelled after ``within_s`` seconds."""
        if self._tasks and within_s > 0:
            await asyncio.wait(self._tasks, timeout=within_s)
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel("the stop deadline has come")
        _, stubborn = await asyncio.wait(self._tasks, timeout=_LAST_S)
        if stubborn:
            log.warning("handlers that can't be cancelled are left behind", handlers=len(stubborn))
