"""Put the parts together, serve, drain, stop.

    open the store, the clients, the admin server
    -> a poller for each queue, each message in a task of its own
    -> stop(): ask no more, give back what has not started, let what runs finish, flush every delete
    -> close

Whatever the moment, the whole ends within ``stop_deadline_s``; a second stop() skips the waiting, never the flush.

Elsewhere: signals, logs and the event loop (``daemon``), the life of a message (``engine``).
"""

from __future__ import annotations

import math
import time
from contextlib import AsyncExitStack
from typing import Final

import anyio
import anyio.abc
import structlog

from consumer.cloud.clients import Clients, open_clients
from consumer.cloud.credentials import Keys
from consumer.cloud.limiter import RateLimiter
from consumer.config import Lane as LaneSettings
from consumer.config import Settings
from consumer.engine.delivery import Delivery, Stage
from consumer.engine.lane import Lane, Shared, make_lane
from consumer.engine.poll import Poller
from consumer.engine.process import process
from consumer.engine.slots import Place
from consumer.engine.store_gate import StoreGate
from consumer.engine.upkeep import prune, watch_attributes
from consumer.engine.vitals import Vitals
from consumer.engine.without_message import NoQueue, delivery_of
from consumer.errors import Fault, SettingsError, UsageError
from consumer.ops.admin import AdminServer
from consumer.ops.metrics import Metrics
from consumer.ops.redact import SECRETS
from consumer.plugin.registry import Registry
from consumer.store.ledger import Ledger
from consumer.store.open import make_ledger
from consumer.version import version

log = structlog.stdlib.get_logger(__name__)

_SETTLE_RESERVE_S: Final = 1.0
_FLUSH_RESERVE_S: Final = 0.5
_HURRY_S: Final = 1.5
_LOOK_S: Final = 0.02
_FAULTS: Final = frozenset(Fault)


class App:
    """One run of the daemon.

    Args:
        settings: How it is set up.
        registry: Its handlers.

    Raises:
        SettingsError: No queue is named, or the store's setting names none.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        queues = settings.all_lanes()
        if not queues:
            raise SettingsError(
                "notify_url: expected at least one queue, as in "
                "--notify-url mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME, got none"
            )
        self.settings = settings
        self.registry = registry
        self.metrics = Metrics(registry.handlers, version=version())
        self.admin_port: int | None = None
        self.lanes: list[Lane] = []
        self._queues = queues
        self._ledger: Ledger = make_ledger(settings.store_target())
        self._gate = StoreGate(self._ledger, self.metrics.store_up.set)
        self._pollers: list[Poller] = []
        self._limiters: dict[str, RateLimiter] = {}
        self._stop_asked = anyio.Event()
        self._hurry_asked = anyio.Event()
        self.stop_at = math.inf
        """When everything must have ended, on the monotonic clock."""
        self.flushed = False
        """Whether all that had ended when the daemon stopped is deleted."""
        self.vitals = Vitals(self.lanes, self._gate, len(registry.handlers))
        self._shared = Shared(
            settings=settings,
            registry=registry,
            ledger=self._ledger,
            gate=self._gate,
            turns={
                name: anyio.CapacityLimiter(handler.limits.concurrency)
                for name, handler in registry.handlers.items()
                if handler.limits.concurrency is not None
            },
            metrics=self.metrics,
        )

    def stop(self) -> None:
        """Stop; called again, skip the waiting for handlers."""
        if self._stop_asked.is_set():
            self._hurry_asked.set()
            self.stop_at = min(self.stop_at, time.monotonic() + _HURRY_S)
            return
        self.stop_at = time.monotonic() + self.settings.stop_deadline_s
        self.vitals.stopping = True
        self._stop_asked.set()

    async def serve(self, *, started: anyio.Event | None = None) -> None:
        """Handle messages until stopped.

        Args:
            started: Set once every queue is being polled.

        Raises:
            SettingsError: A setting proves wrong when it is used: the admin's address, the certificates.
            StoreError: The store can't be opened.
        """
        async with AsyncExitStack() as stack:
            await self._open_store(stack)
            if self.settings.admin:
                admin = AdminServer(
                    self.settings.admin_host, self.settings.admin_port, metrics=self.metrics, checks=self.vitals
                )
                await stack.enter_async_context(admin)
                self.admin_port = admin.port
            for queue in self._queues:
                self.lanes.append(make_lane(queue, await self._clients(stack, queue), self._shared))
            async with anyio.create_task_group() as background:
                background.start_soon(self._gate.run)
                background.start_soon(prune, self._ledger, self._gate, self.settings, self.lanes)
                for lane in self.lanes:
                    if any(handler.result is not None for handler in self.registry.handlers.values()):
                        # The signer takes a quarter of a second to load: not in front of the first result.
                        background.start_soon(lane.mps.warm_up)
                    background.start_soon(lane.leases.run)
                    background.start_soon(lane.deletes.run)
                    background.start_soon(watch_attributes, lane)
                await self._work(started)
                background.cancel_scope.cancel("stopped")

    async def run_job(self, job_id: str, queue: str | None = None) -> str:
        """Handle one job that has no message: ask MPS for it, then the same life.

        Args:
            job_id: Which job.
            queue: Under which queue it counts; needed where several are set.

        Returns:
            The word for how it ended (``ops.words.Outcome``).

        Raises:
            UsageError: MPS does not know the job, or it goes on, or the queue is not clear.
            CloudError: MPS can't be asked.
            StoreError: The store can't be opened, as while a daemon runs on the same file.
        """
        named = [lane for lane in self._queues if queue in {None, lane.url.queue}]
        if len(named) != 1:
            known = ", ".join(lane.url.queue for lane in self._queues)
            raise UsageError(f"queue {queue or 'not given'}: expected one of {known}")
        async with AsyncExitStack() as stack:
            await self._open_store(stack)
            clients = await self._clients(stack, named[0])
            answer = await clients.mps.query(job_id)
            if not answer.found:
                raise UsageError(f"job {job_id!r}: MPS says that it is not an intelligent production job")
            if answer.state not in {"Success", "Fail"}:
                raise UsageError(f"job {job_id!r} is {answer.state!r}: expected one that has ended; try again later")
            lane = make_lane(named[0], clients, self._shared, orders=NoQueue())
            async with anyio.create_task_group() as background:
                background.start_soon(self._gate.run)
                background.start_soon(lane.leases.run)
                lane.slots.take_now(1)
                word = await process(lane, delivery_of(answer), Place(lane.slots))
                background.cancel_scope.cancel("handled")
            return str(word)

    async def _open_store(self, stack: AsyncExitStack) -> None:
        await self._ledger.open()
        stack.push_async_callback(self._close_store)
        self.metrics.store_up.set(1)

    async def _close_store(self) -> None:
        """Let go of the store; what was answered is on disk already, so a store that hangs is left alone."""
        with anyio.move_on_after(max(_FLUSH_RESERVE_S, self.stop_at - time.monotonic())) as scope:
            await self._ledger.close()
        if scope.cancelled_caught:
            log.warning("store not closed in time; what was written is safe")

    async def _clients(self, stack: AsyncExitStack, queue: LaneSettings) -> Clients:
        account = f"{queue.url.account}/{queue.url.region}"
        limiter = self._limiters.setdefault(account, RateLimiter(self.settings.mps_rate))
        clients = open_clients(
            queue, ca_file=self.settings.ca_file, limiter=limiter, observe=self._observe_call, on_keys=_mask
        )
        return await stack.enter_async_context(clients)

    def _observe_call(self, operation: str, result: str, seconds: float) -> None:
        self.metrics.api_call(operation, Fault(result) if result in _FAULTS else None, seconds)

    async def _work(self, started: anyio.Event | None) -> None:
        """Poll and handle, then drain; returns when every message is settled or the deadline has come."""
        async with anyio.create_task_group() as work:
            try:
                await self._poll(work, started)
                await self._drain()
                await self._flush()
            except BaseException:
                # Ended from outside or by a fault of our own: ends that are being written get a moment, not for ever.
                self._limit_settling(_HURRY_S)
                raise
            # What is left at the deadline is left to its lease: all that remains is to let go of it.
            work.cancel_scope.cancel("the stop deadline has come")
            self._limit_settling(0)

    async def _poll(self, work: anyio.abc.TaskGroup, started: anyio.Event | None) -> None:
        """Poll until a stop is asked for and every receive has ended."""

        def start(lane: Lane, delivery: Delivery) -> None:
            work.start_soon(_live, lane, delivery)

        async with anyio.create_task_group() as limit:
            async with anyio.create_task_group() as polls:
                self._pollers = [Poller(lane, start) for lane in self.lanes]
                for poller in self._pollers:
                    polls.start_soon(poller.run)
                self._tell_started(started)
                await self._stop_asked.wait()
                await self._stop_polling()
                limit.start_soon(self._cut_polls, polls.cancel_scope)
            limit.cancel_scope.cancel("all polls have ended")

    def _tell_started(self, started: anyio.Event | None) -> None:
        queues, handlers = [lane.url.queue for lane in self.lanes], list(self.registry.handlers)
        log.info("started", version=version(), queues=queues, handlers=handlers, admin_port=self.admin_port)
        self.vitals.serving = True
        if started is not None:
            started.set()

    async def _cut_polls(self, polls: anyio.CancelScope) -> None:
        """An answer that has begun is read to its end, but one that stalls must not cost the handlers their time."""
        while time.monotonic() < self.stop_at - self._settle_reserve_s:  # noqa: ASYNC110 - it comes nearer when hurried
            await anyio.sleep(_LOOK_S)
        polls.cancel("the stop deadline comes")

    def _limit_settling(self, seconds: float) -> None:
        """Give up, so many seconds from now, what is still being written down."""
        for lane in self.lanes:
            lane.settle_by = anyio.current_time() + seconds
        for delivery in self._held():
            if delivery.settling is not None:
                delivery.settling.deadline = anyio.current_time() + seconds

    async def _stop_polling(self) -> None:
        """Ask no more, and give back what no handler has begun."""
        log.info("stopping", in_flight=len(self._held()), deadline_seconds=self.settings.stop_deadline_s)
        for lane in self.lanes:
            lane.stopping = True
        self._cancel(Stage.HELD)
        async with anyio.create_task_group() as stops:
            for poller in self._pollers:
                stops.start_soon(poller.stop)

    async def _drain(self) -> None:
        """Let running handlers finish; at the deadline, or when hurried, cut them short and give them back."""
        await self._while_held(self._settle_reserve_s, unless_hurried=True)
        self._cancel(Stage.RUNNING)
        await self._while_held(min(_FLUSH_RESERVE_S, self.settings.stop_deadline_s / 8), unless_hurried=False)

    @property
    def _settle_reserve_s(self) -> float:
        """What is kept of the stop deadline for writing down how cut runs ended."""
        return min(_SETTLE_RESERVE_S, self.settings.stop_deadline_s / 4)

    async def _while_held(self, reserve_s: float, *, unless_hurried: bool) -> None:
        while self._held() and time.monotonic() < self.stop_at - reserve_s:
            if unless_hurried and self._hurry_asked.is_set():
                return
            await anyio.sleep(_LOOK_S)

    async def _flush(self) -> None:
        """Delete everything that has ended, up to the deadline."""
        with anyio.move_on_after(max(0.1, self.stop_at - time.monotonic())) as scope:
            async with anyio.create_task_group() as flushes:
                for lane in self.lanes:
                    flushes.start_soon(lane.deletes.flush)
        pending = sum(lane.deletes.pending for lane in self.lanes)
        if scope.cancelled_caught:
            log.warning("stopped with deletes pending; their redeliveries will only be deleted", pending=pending)
        else:
            self.flushed = True
            log.info("stopped")

    def _held(self) -> list[Delivery]:
        return [delivery for lane in self.lanes for delivery in lane.live]

    def _cancel(self, most: Stage) -> None:
        for delivery in self._held():
            if delivery.stage <= most and delivery.scope is not None:
                delivery.scope.cancel("the daemon stops")


def _mask(keys: Keys) -> None:
    """Keep the default chain's keys out of the logs; an older pair may still be in use."""
    SECRETS.protect(keys.access_key_secret, slot="chain secret")
    SECRETS.protect(keys.security_token, slot="chain token")


async def _live(lane: Lane, delivery: Delivery) -> None:
    """One message's life, in a slot."""
    lane.live.add(delivery)
    place = Place(lane.slots)
    try:
        await process(lane, delivery, place)
    except Exception:
        # A mistake in this program must cost one message some time, not all of them the daemon. Its claim and its lease
        # run out by themselves, so that it is neither lost nor deleted.
        log.exception(
            "internal fault; the message comes back when its lease ends",
            queue=lane.url.queue,
            message_id=delivery.message.message_id,
        )
    finally:
        lane.live.discard(delivery)
        place.close()
