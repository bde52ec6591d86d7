"""Call the hook of dead letters: for each letter once it is stored, until the hook succeeds.

    set_aside       the transaction that stores a letter also notes that its hook is due (``hook_at``)
    take_due_hooks  takes some letters whose hook is due, and puts each off in the same step
    hook_done       the hook has succeeded

So a crash at any point forgets no letter, replicas on one database share the letters, and a hook is called at least
once. What fails, is cut short by a stop, or dies with its process is tried again by the time that was noted when it
was taken: after as long as the letter is old, at least a minute and at most an hour. That doubles the pauses without a
counter. They need no jitter: a queue has at most four calls at once.

A pass ends when no hook of a batch succeeds. So while what the hook calls is down, four letters a minute try it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from consumer.engine.invoke import guarded
from consumer.engine.outcome import Raised, Returned
from consumer.errors import text_of
from consumer.message.notification import read_user_data
from consumer.ops.logs import LogFields
from consumer.ops.metrics import LetterHookResult
from consumer.plugin.letter_hook import Letter, LetterHook

if TYPE_CHECKING:
    from consumer.engine.lane import Lane
    from consumer.store.ledger import StoredLetter

log = structlog.stdlib.get_logger(__name__)

_AT_ONCE: Final = 4
_EVERY_S: Final = 60.0
_LEAST_S: Final = 60.0
_MOST_S: Final = 3600.0
_MARGIN_S: Final = 30.0
"""How much longer than a call may take its letter is put off, so that no other process calls the hook meanwhile."""


class LetterHooks:
    """The calls of the hook for one queue's letters."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._wake = anyio.Event()
        # What was due when the process before ended.
        self._wake.set()
        self._calls: set[asyncio.Task[Raised | Returned]] = set()
        self._is_cut = False
        self.busy = 0
        """Letters that were taken and whose call has not ended, or has not been noted."""

    def wake(self) -> None:
        """A hook may be due: a letter was stored, or a reload has brought a hook."""
        self._wake.set()

    def cut(self) -> None:
        """Cancel the calls under way, once, and begin no other."""
        if not self._is_cut:
            self._is_cut = True
            for task in self._calls:
                task.cancel("the daemon stops")

    async def run(self) -> None:
        """Call the hook for the letters that are due, until cancelled; a retry within a minute of its time."""
        while True:
            with anyio.move_on_after(_EVERY_S):
                await self._wake.wait()
            self._wake = anyio.Event()
            while await self._call_some():
                pass

    async def _call_some(self) -> bool:
        """Call the hook for a few letters; whether any has succeeded."""
        lane, hook = self._lane, self._lane.rules.registry.letter_hook
        if hook is None or lane.stopping:
            return False
        longest_s = hook.timeout_s + lane.rules.policy.cancel_grace_s + _MARGIN_S
        least_s = max(_LEAST_S, longest_s)
        take = partial(lane.store.ledger.take_due_hooks, lane.identity, limit=_AT_ONCE, least_s=least_s, most_s=_MOST_S)
        letters = await lane.store.persist(take)
        self.busy = len(letters)
        try:
            return any(await asyncio.gather(*(self._call(hook, stored) for stored in letters)))
        finally:
            self.busy = 0

    async def _call(self, hook: LetterHook, stored: StoredLetter) -> bool:
        """Call the hook for one letter, and note how that ended; whether it has succeeded."""
        job = stored.letter.job
        with LogFields(queue=self._lane.name, letter=stored.id, function=job.function, job_id=job.job_id):
            result, failure = await self._within_limit(hook, _users_letter(stored, self._lane.name))
            if succeeded := failure is None:
                await self._lane.store.persist(self._lane.store.ledger.hook_done, stored.id)
                log.debug("dead-letter hook done")
            elif self._is_cut:
                log.info("dead-letter hook interrupted by the stop; it is called again")
                return False
            else:
                self._log_failure(stored, failure)
            self._lane.metrics.letter_hooks[result].inc()
            return succeeded

    async def _within_limit(self, hook: LetterHook, letter: Letter) -> tuple[LetterHookResult, Exception | None]:
        """Call the hook, and cancel it once after its limit; how it ended, and why it failed."""
        task = asyncio.get_running_loop().create_task(guarded(hook.function, letter, "dead-letter hook"))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            await asyncio.wait({task}, timeout=hook.timeout_s)
            if is_late := not task.done():
                task.cancel("its time limit is over")
                await asyncio.wait({task}, timeout=self._lane.rules.policy.cancel_grace_s)
        finally:
            if not task.done():
                self._leave_behind(task)
        if is_late:
            late = TimeoutError(f"the hook still ran after {hook.timeout_s:g} s, its time limit")
            late.__cause__ = _cancellation_of(task)
            return LetterHookResult.TIMED_OUT, late
        if (cancelled := _cancellation_of(task)) is not None:
            error = RuntimeError("the hook awaited something that was cancelled, and let that pass through")
            error.__cause__ = cancelled
            return LetterHookResult.FAILED, error
        result = task.result()
        if isinstance(result, Raised):
            return LetterHookResult.FAILED, result.error
        return LetterHookResult.DONE, None

    def _leave_behind(self, task: asyncio.Task[Raised | Returned]) -> None:
        threads = self._lane.threads

        def ended_late(_task: object) -> None:
            threads.left_behind -= 1

        threads.left_behind += 1
        task.add_done_callback(ended_late)
        self._calls.discard(task)
        task.cancel()
        log.warning("a dead-letter hook still runs though it was cancelled")

    def _log_failure(self, stored: StoredLetter, failure: Exception) -> None:
        text = text_of(failure)
        is_new = self._lane.shown.is_new(("letter hook", stored.id, text))
        log.warning(
            "dead-letter hook failed",
            reason=str(stored.letter.reason),
            error=f"{type(failure).__name__}: {text}",
            delay_seconds=max(0, round((stored.letter.hook_at or 0.0) - time.time())),
            exc_info=failure if is_new else None,
        )


def _cancellation_of(task: asyncio.Task[Raised | Returned]) -> asyncio.CancelledError | None:
    """What has ended a task that was cancelled; its traceback shows where the task waited."""
    if not task.cancelled():
        return None
    try:
        task.result()
    except asyncio.CancelledError as error:
        return error
    return None


def _users_letter(stored: StoredLetter, queue: str) -> Letter:
    letter, job = stored.letter, stored.letter.job
    return Letter(
        id=stored.id,
        reason=letter.reason.value,
        error=letter.error,
        function=job.function,
        job_id=job.job_id or "",
        queue=queue,
        state=job.state,
        code=job.code,
        message=job.message,
        user_data=read_user_data(job.user_data)[1],
        traceback=letter.traceback,
        attempts=job.attempts,
        body=letter.body,
        message_id=job.message_id,
        stored_at=datetime.fromtimestamp(stored.stored_at, UTC),
    )
