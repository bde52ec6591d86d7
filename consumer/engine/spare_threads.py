"""The event loop's threads for what blocks, some of them started beforehand.

asyncio looks host names up on such a thread, and handlers use them by ``asyncio.to_thread``. Where the machine or the
container has no thread left, asyncio's own executor refuses what it can't start a thread for. Here it waits for one of
the threads that are there.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_READY: Final = 2


class SpareThreads(ThreadPoolExecutor):
    """As ``ThreadPoolExecutor``; it never refuses work for want of a further thread.

    Raises:
        RuntimeError: Not even the first threads can be started.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="mns-consumer-spare")
        all_there = threading.Event()
        try:
            for _ in range(_READY):
                # Each keeps its thread busy until all have begun: so each gets a thread of its own.
                self.submit(all_there.wait)
        finally:
            all_there.set()

    def _adjust_thread_count(self) -> None:
        # Private, but where every version of Python starts its threads; the work has been queued before.
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
