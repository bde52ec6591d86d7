"""A circuit breaker: how every part of the engine treats a service that fails.

    closed      calls go through
    open        calls wait for their turn; ``retry_at`` says when the next one may go
    half-open   one call is under way to see whether the service works again

The first fault opens it, the first success closes it. One outage is two log lines: one when it opens and one, with the
outage's length, when it closes. A fault of another kind meanwhile, such as wrong keys after a refused connection, is
one more line. Pauses between probes double from 0.5 s to 4 s, with 50 % jitter, so that work resumes within five
seconds of the service. A fault that only a person can mend is retried every 5 s for two minutes, then every 60 s.

Times are seconds on the monotonic clock.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from consumer.errors import CloudError, ConsumerError

log = structlog.stdlib.get_logger(__name__)

_BASE_S: Final = 0.5
_CAP_S: Final = 4.0
_PROBE_TURN_S: Final = 4.0
"""After this long without an answer the next call may probe."""
_NEEDS_A_PERSON_S: Final = 5.0
_NEEDS_A_PERSON_LATER_S: Final = 60.0
_LATER_AFTER_S: Final = 120.0

Probe = Callable[[], Awaitable[None]]
"""Tries the service; raises ``ConsumerError`` while it fails."""


def backoff_s(faults: int) -> float:
    """The pause after this many faults in a row, from 1: doubled up to 4 s, with 50 % jitter."""
    ceiling_s = min(_CAP_S, _BASE_S * 2.0 ** min(faults - 1, 10))
    return ceiling_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


class Breaker:
    """The breaker of one service, or of one kind of call.

    Args:
        opened: The log event of an outage's start, such as ``polling failed; retrying until it works``.
        closed: The log event of its end, such as ``polling works again``.
        queue: The queue's name, for the log; ``None`` where it serves all queues.
        probe: Tries the service, for ``confirm`` and ``wait_closed``.
        log_after: Faults in a row, one after the other, before the outage is logged.
        quiet_s: A success ends the logged outage only this long after its last fault, so that single faults among
            successes are one outage in the log.
        always_fast: Whether a fault that only a person can mend is retried as fast as any, since leases end meanwhile.
        suppress_log: Whether a wider outage is already logged, which explains this one.
    """

    def __init__(
        self,
        opened: str,
        closed: str,
        *,
        queue: str | None = None,
        probe: Probe | None = None,
        log_after: int = 1,
        quiet_s: float = 0.0,
        always_fast: bool = False,
        suppress_log: Callable[[], bool] | None = None,
    ) -> None:
        self._events = opened, closed
        self._fields = {} if queue is None else {"queue": queue}
        self._probe = probe
        self._log_after = log_after
        self._quiet_s = quiet_s
        self._always_fast = always_fast
        self._suppress_log = suppress_log
        self._faults = 0
        self._failed_at = -math.inf
        self._succeeded_at = -math.inf
        self._closed_at = -math.inf
        """When the last outage ended."""
        self._recovered_at = 0.0
        """The first success since the last fault."""
        self._half_open_until = 0.0
        self._probing = anyio.Lock()
        self._is_closed = anyio.Event()
        self._is_closed.set()
        self._logged_kind: str | None = None
        """The kind of the last fault that was logged; ``None`` while no outage is logged."""
        self._began_at = 0.0
        self._outage_faults = 0
        self.fault: ConsumerError | None = None
        """Why it is open, as far as a probe or a call has shown; ``None`` while it is closed."""
        self.retry_at = 0.0
        """When the next call may go; 0 while it is closed."""

    @property
    def is_closed(self) -> bool:
        """Whether every call may go."""
        return self._is_closed.is_set()

    @property
    def is_logged(self) -> bool:
        """Whether an outage has been logged and its end has not."""
        return self._logged_kind is not None

    @property
    def began_at(self) -> float:
        """When the outage under way began; 0 where no call has failed in it."""
        return self._began_at if self._outage_faults else 0.0

    @property
    def event(self) -> str:
        """The log event of an outage's start."""
        return self._events[0]

    def try_probe(self) -> bool:
        """Take the turn of the one call that may go while it is open; always ``True`` while it is closed.

        The turn ends with ``failed`` or ``succeeded``, or after 4 s without either.
        """
        now = time.monotonic()
        if self._is_closed.is_set():
            return True
        if now < max(self.retry_at, self._half_open_until):
            return False
        self._half_open_until = now + _PROBE_TURN_S
        return True

    def wait_s(self) -> float:
        """Seconds until ``try_probe`` may succeed; 0 while it is closed."""
        return max(0.0, max(self.retry_at, self._half_open_until) - time.monotonic())

    def failed(self, error: ConsumerError, asked_at: float = math.inf, *, urgent: bool = False) -> float:
        """Note a fault; opens it, and returns the seconds until the next call may go.

        Calls that were under way together fail together: that is one fault, by the time at which each began
        (``asked_at``). An ``urgent`` fault is logged at once, whatever ``log_after`` says.
        """
        now = time.monotonic()
        if asked_at >= self._failed_at:
            self._faults += 1
        self._failed_at = now
        self._half_open_until = 0.0
        self._log(error, now, urgent=urgent)
        if isinstance(error, CloudError) and not error.retryable and not self._always_fast:
            pause_s = _NEEDS_A_PERSON_S if now - self._began_at < _LATER_AFTER_S else _NEEDS_A_PERSON_LATER_S
        else:
            pause_s = backoff_s(self._faults)
        self.retry_at = now + pause_s
        self.fault = error
        self.open_until_probed()
        return pause_s

    def succeeded(self) -> None:
        """Note a success; closes it."""
        now = time.monotonic()
        if self._succeeded_at <= self._failed_at:
            self._recovered_at = now
        self._succeeded_at = now
        if self._logged_kind is not None and now - self._failed_at >= self._quiet_s:
            seconds = round(self._recovered_at - self._began_at, 1)
            log.info(self._events[1], **self._fields, outage_seconds=seconds, faults=self._outage_faults)
            self._logged_kind = None
        self._half_open_until = self.retry_at = 0.0
        self._faults = 0
        if self._logged_kind is None:
            self._outage_faults = 0
        self.fault = None
        if not self._is_closed.is_set():
            self._closed_at = now
            self._is_closed.set()

    def _log(self, error: ConsumerError, now: float, *, urgent: bool) -> None:
        if not self._outage_faults:
            self._began_at = now
        self._outage_faults += 1
        kind = error.fault if isinstance(error, CloudError) else type(error).__name__
        if kind == self._logged_kind or not (urgent or self._faults >= self._log_after):
            return
        if self._suppress_log is None or not self._suppress_log():
            self._logged_kind = kind
            log.warning(self._events[0], **self._fields, error=str(error))

    def open_until_probed(self) -> None:
        """Note that a call failed whose caller can't wait for a probe: open until a waiter's probe succeeds."""
        if self._is_closed.is_set():
            self._is_closed = anyio.Event()

    async def confirm(self, error: ConsumerError, asked_at: float) -> bool:
        """Find out whether a failed call means an outage: probe the service, unless the answer is known.

        The call's error is logged for the outage: it says more than the probe's own failure.

        Returns:
            Whether the service works, so that the fault was the call's own; ``False`` when it is down.
        """
        async with self._probing:
            # A call that overlapped an outage failed with it, however long it waited here.
            if not self._is_closed.is_set() or self._closed_at >= asked_at:
                return False
            if self._succeeded_at > asked_at:
                return True
            return await self._run_probe(error)

    async def wait_closed(self) -> None:
        """Return when it is closed; meanwhile one of those who wait probes the service with growing pauses."""
        while not self._is_closed.is_set():
            async with self._probing:
                while not self._is_closed.is_set():
                    with anyio.move_on_after(max(0.0, self.retry_at - time.monotonic())):
                        await self._is_closed.wait()
                    if not self._is_closed.is_set():
                        await self._run_probe(None)

    async def _run_probe(self, first: ConsumerError | None) -> bool:
        if self._probe is None:
            raise RuntimeError("this breaker has no probe")
        asked_at = time.monotonic()
        try:
            await self._probe()
        except ConsumerError as error:
            self.failed(first or error, asked_at)
            return False
        self.succeeded()
        return True
