"""The thread that searches for keys: started by the first search and kept, so that later ones need no new thread.

A machine or a container may have no thread left when keys are about to expire. A search that hangs must not hold up the
next one: that one gets a second thread where one can be had, and waits for the first where not.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from consumer.cloud.credentials_chain import THREAD

_Job = Callable[[], None]


class SearchThread:
    """Runs jobs one after the other on a thread that can't hold the process back; ends with its owner."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._counts = _Counts()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def submit(self, job: _Job) -> None:
        """Run a job soon; it must not raise.

        Raises:
            RuntimeError: It would be the first, and no thread can be started.
        """
        counts = self._counts
        with counts.lock:
            counts.jobs += 1
            if counts.jobs > counts.threads:
                try:
                    threading.Thread(target=_work, args=(self._jobs, counts), name=THREAD, daemon=True).start()
                except RuntimeError:
                    if not counts.threads:
                        counts.jobs -= 1
                        raise
                else:
                    counts.threads += 1
        self._jobs.put(job)


class _Counts:
    """How many jobs have not ended, and how many threads there are. No thread holds the owner itself alive."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs = 0
        self.threads = 0


def _work(jobs: SimpleQueue[_Job | None], counts: _Counts) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job
        with counts.lock:
            counts.jobs -= 1
            if counts.threads > 1 and counts.jobs < counts.threads:
                counts.threads -= 1
                return
    # For the other thread, where there are two.
    jobs.put(None)
