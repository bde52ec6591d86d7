"""Put the parts together, serve, stop.

    open the store, the clients, the admin server
    -> a poller for each queue, each delivery in a task of its own
    -> stop(): poll no more, release what has not started, let handlers finish, flush every delete
    -> close

The stop ends within ``stop_deadline_s``; a second stop() skips the waiting, never the flush.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Final

import anyio
import anyio.to_thread
import structlog

from consumer.cloud.clients import Clients, given_keys, open_clients, open_queue
from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.messages import Message
from consumer.cloud.mps import JobStatus, Mps, RateLimiter
from consumer.config import QueueSettings, Settings
from consumer.engine.breaker import Breaker
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.lane import Lane, Shared, make_rules, watch_attributes
from consumer.engine.loop_watch import ANSWER_S, LoopWatch
from consumer.engine.poll import Poller
from consumer.engine.process import process
from consumer.engine.stop import HURRY_S, Stop, Tasks
from consumer.engine.store_access import LetterLimit, StoreAccess, prune
from consumer.engine.vitals import Vitals
from consumer.engine.without_message import NoQueue, QueueAndNoQueue, message_of
from consumer.errors import StoreDiedError, UsageError, lacks_threads
from consumer.job_state import ENDED
from consumer.ops.admin import AdminServer
from consumer.ops.control import NotNowError
from consumer.ops.metrics import Metrics, SettledAs
from consumer.ops.sanitize import SECRETS
from consumer.ops.traces import open_traces
from consumer.plugin.registry import Registry, forget
from consumer.policy import MAX_RETENTION_S
from consumer.store.ledger import Ledger
from consumer.store.open import make_ledger, open_submissions
from consumer.store.submissions import Submissions
from consumer.submissions.reconcile import Handled, Reconciler, reconcile
from consumer.submissions.submitter import Submitter

log = structlog.stdlib.get_logger(__name__)

_AGAIN_S: Final = 60.0
"""When a job without a message is tried again that could not be handled now."""
_CLOSED: Final = frozenset({SettledAs.DONE, SettledAs.DEAD, SettledAs.DUPLICATE, SettledAs.DROPPED})
"""After these nothing more happens to a job."""


class App:
    """One run of the daemon, for at least one queue.

    Raises:
        SettingsError: The store's driver is missing, or one of its files can't be used.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.rules = make_rules(settings.policy(), registry)
        self.version = version("mns-consumer")
        self.began_at = time.time()
        self._queues = settings.queues()
        queues = [queue.url.identity for queue in self._queues]
        self.metrics = Metrics(registry.handlers, queues=queues, version=self.version)
        self.admin_port: int | None = None
        self.lanes: list[Lane] = []
        self.pollers: list[Poller] = []
        self._deliveries = Tasks()
        self._ledger: Ledger = make_ledger(settings.store_address())
        self._store = StoreAccess(self._ledger)
        self.metrics.store_up.set_function(lambda: self._store.works)
        self.metrics.store_busy_seconds.set_function(self._ledger.busy_s)
        self._retired: Registry | None = None
        self._limiters: dict[str, RateLimiter] = {}
        self._no_queue = NoQueue()
        self._submitters: list[Submitter] = []
        self.stopping = Stop(self.lanes, settings.stop_deadline_s)
        self._shared_store = settings.store_address().is_shared
        self._letters = LetterLimit(self._store, self.rules.policy, self.metrics)
        self._watch = LoopWatch(self.lanes, self._ledger, self.metrics.loop_blocked)
        self.vitals = Vitals(self.lanes, self._store, self._letters, len(registry.handlers))
        self._shared = Shared(
            rules=self.rules,
            store=self._store,
            letters=self._letters,
            metrics=self.metrics,
            traces=open_traces(self.version, trusted=settings.trust_trace_parent) if settings.otel else None,
        )

    @property
    def registry(self) -> Registry:
        """The handlers for new messages."""
        return self.rules.registry

    def breakers(self) -> Sequence[tuple[str | None, Breaker]]:
        """The circuit breakers of all services, each with its queue's identity; ``None`` for the store's."""
        of_lanes = [
            (lane.identity, breaker)
            for lane in self.lanes
            for breaker in (lane.queries.breaker, lane.visibility.breaker, lane.deletes.breaker, lane.deletes.refusals)
        ]
        polls = [(poller.lane.identity, poller.breaker) for poller in self.pollers]
        return [(None, self._store.breaker), *polls, *of_lanes]

    @property
    def is_migrating(self) -> bool:
        """Whether the start waits for a migration of the store."""
        return self._ledger.is_migrating()

    def adopt(self, settings: Settings, registry: Registry) -> None:
        """Use other settings and handlers for new messages; messages in flight keep theirs.

        The settings differ only in those that a reload may change.
        """
        policy = settings.policy()
        self.settings = settings
        before, self.rules = self.rules, make_rules(policy, registry, self.rules)
        self.metrics.register(registry.handlers)
        self.vitals.handlers = len(registry.handlers)
        self._letters.adopt(policy)
        for submitter in self._submitters:
            submitter.reconcile_after_s = policy.reconcile_after_s
        for lane, queue in zip(self.lanes, settings.queues(), strict=True):
            lane.rules = self.rules
            lane.leases.policy = policy
            lane.letter_hooks.wake()
            keys = given_keys(queue)
            if keys is not None and isinstance(lane.credentials, StaticCredentials):
                lane.credentials.replace(keys)
        # Handlers of the registry before that still run may import from its files; older ones have ended.
        if self._retired is not None:
            forget(self._retired.packages)
        self._retired = before.registry

    def stop(self) -> None:
        """Stop; called again, skip the waiting for handlers."""
        self.stopping.ask()
        self.vitals.stopping = True

    async def serve(self, *, started: anyio.Event | None = None) -> None:
        """Handle messages until stopped; ``started`` is set once every queue is being polled.

        Raises:
            SettingsError: A setting turns out wrong: the admin server's address, the certificates.
            PortTakenError: Another program listens on the admin server's port.
            StoreError: The store can't be opened, or has died.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_traces)
            await self._open_store(stack)
            if self.settings.admin:
                address, names = (self.settings.admin_host, self.settings.admin_port), self.settings.admin_allowed_hosts
                admin = AdminServer(*address, metrics=self.metrics, checks=self.vitals, allowed_hosts=names)
                await stack.enter_async_context(admin)
                self.admin_port = admin.port
            submissions = await stack.enter_async_context(
                open_submissions(self.settings.store_address(), beside_daemon=True)
            )
            for queue in self._queues:
                clients = await self._clients(stack, queue)
                submitter = self._submitter(queue, clients, submissions)
                calls = QueueAndNoQueue(clients.queue, self._no_queue)
                open_calls = partial(self._second_client, queue, clients)
                lane = Lane(queue, clients, self._shared, submitter=submitter, calls=calls, open_calls=open_calls)
                self.lanes.append(lane)
            async with anyio.create_task_group() as background:
                await background.start(self._watch.run)
                background.start_soon(self._store.watch_disk)
                background.start_soon(self._watch_store)
                background.start_soon(self._letters.run)
                # A shared store may hold rows of other queues, which may be as old as MNS allows.
                least_s = 2 * MAX_RETENTION_S if self._shared_store else 0.0
                background.start_soon(prune, self._store, submissions, self.lanes, least_s)
                for lane in self.lanes:
                    if any(handler.result is not None for handler in self.registry.handlers.values()):
                        # The signer takes 0.25 s to load: before the first result is wanted.
                        background.start_soon(lane.mps.warm_up)
                    background.start_soon(lane.leases.run)
                    background.start_soon(lane.deletes.run)
                    background.start_soon(lane.letter_hooks.run)
                    background.start_soon(watch_attributes, lane)
                background.start_soon(self._reconcile, submissions)
                await self._work(started)
                background.cancel_scope.cancel("stopped")

    async def run_job(self, job_id: str, queue: str | None = None) -> str:
        """Handle one job that has no message: query MPS for it, then process it like a delivery.

        It counts for the queue of this name or identity, which is needed where several are set.

        Returns:
            How it was settled (``ops.metrics.SettledAs``).

        Raises:
            UsageError: MPS does not know the job, or it still runs, or the queue is not clear.
            CloudError: MPS can't be asked.
            StoreError: The store can't be opened, as while a daemon runs on the same file.
        """
        named = [lane for lane in self._queues if queue in {None, lane.url.queue, lane.url.identity}]
        if len(named) != 1:
            known = ", ".join(self.metrics.name_of(lane.url.identity) for lane in self._queues)
            raise UsageError(f"queue {queue or 'not given'}: expected one of {known}")
        async with AsyncExitStack() as stack:
            await self._open_store(stack)
            clients = await self._clients(stack, named[0])
            message = await _message_without_queue(clients.mps, job_id)
            submissions = await stack.enter_async_context(open_submissions(self.settings.store_address()))
            submitter = self._submitter(named[0], clients, submissions)
            lane = Lane(named[0], clients, self._shared, submitter=submitter, calls=NoQueue())
            self.lanes.append(lane)
            async with anyio.create_task_group() as background:
                await background.start(self._watch.run)
                background.start_soon(self._watch_store)
                background.start_soon(lane.leases.run)
                lane.slots.take_now(1)
                self._watch.wake()
                status = await process(lane, lane.receive(message))
                background.cancel_scope.cancel("handled")
            return str(status)

    async def run_job_beside(self, job_id: str, lane: Lane) -> str:
        """As ``run_job``, while the daemon serves. The job ends in order even if the caller is cancelled.

        Raises:
            UsageError: MPS does not know the job, or it still runs.
            CloudError: MPS can't be asked.
            NotNowError: The daemon stops.
        """
        message = await _message_without_queue(lane.mps, job_id)
        status = await self._process_beside(lane, message)
        self._no_queue.take_delay(message.receipt.handle)
        return str(status)

    async def _process_beside(self, lane: Lane, message: Message) -> SettledAs | None:
        """Process a message that did not come from the queue, while the daemon serves.

        Raises:
            NotNowError: The daemon stops.
        """
        await lane.slots.reclaim()
        if self.vitals.stopping:
            lane.slots.give_back(1)
            raise NotNowError("the daemon stops; try again once it runs")
        task = self._deliveries.begin(process(lane, lane.receive(message)))
        self._watch.wake()
        return await asyncio.shield(task)

    async def _handle_ended(self, lane: Lane, answer: JobStatus) -> Handled:
        """See ``submissions.reconcile.Handle``."""
        # Its start is recorded, so that a job that kills the process again and again is found.
        message = message_of(answer, dequeue_count=2)
        try:
            status = await self._process_beside(lane, message)
        except NotNowError:
            return Handled(_AGAIN_S, was_lost=False)
        delay_s = self._no_queue.take_delay(message.receipt.handle)
        again_s = None if status in _CLOSED else delay_s or _AGAIN_S
        return Handled(again_s, was_lost=status in _CLOSED and status is not SettledAs.DUPLICATE)

    def _submitter(self, queue: QueueSettings, clients: Clients, submissions: Submissions) -> Submitter:
        accounts = {one.url.account for one in self._queues}
        after_s = self.settings.reconcile_after_s
        made = Submitter(clients.mps, submissions, queue, accounts=accounts, reconcile_after_s=after_s)
        self._submitters.append(made)
        return made

    async def _reconcile(self, submissions: Submissions) -> None:
        await reconcile(
            submissions,
            [self._reconciler(lane, submissions) for lane in self.lanes],
            after_s=lambda: self.rules.policy.reconcile_after_s,
            is_ready=lambda: self._store.works,
            outage=Breaker("submissions can't be read; retried until it works", "submissions can be read again"),
        )

    def _reconciler(self, lane: Lane, submissions: Submissions) -> Reconciler:
        return Reconciler(
            submissions,
            lane.identity,
            lane.name,
            query=partial(lane.mps.query, background=True),
            handle=partial(self._handle_ended, lane),
            is_ready=lambda: lane.queries.breaker.is_closed,
            on_counts=lane.metrics.set_submissions,
            on_found=lambda function: lane.metrics.function(function).reconciled.inc(),
        )

    async def _open_store(self, stack: AsyncExitStack) -> None:
        await self._ledger.open()
        stack.push_async_callback(self._close_store)
        await self._letters.count()

    async def _watch_store(self) -> None:
        """End the daemon when the store's thread has died: without a store no message can be handled."""
        try:
            await self._ledger.watch()
        except StoreDiedError:
            self.stopping.at = min(self.stopping.at, time.monotonic() + HURRY_S)
            log.exception("the store has died; the daemon ends")
            raise

    async def _close_store(self) -> None:
        """Close the store; answered writes are on disk already, so a store that hangs is left alone."""
        with anyio.move_on_after(self.stopping.left_s) as scope:
            await self._ledger.close()
        if scope.cancelled_caught:
            log.warning("store not closed in time; what was written is safe")

    async def _close_traces(self) -> None:
        """Send the remaining traces within the deadline."""
        if (traces := self._shared.traces) is not None:
            with anyio.move_on_after(self.stopping.left_s, shield=True):
                try:
                    await anyio.to_thread.run_sync(traces.close, self.stopping.left_s, abandon_on_cancel=True)
                except RuntimeError as error:
                    if not lacks_threads(error):
                        raise
                    # Everything else has ended, so this may block the event loop.
                    traces.close(self.stopping.left_s)

    async def _clients(self, stack: AsyncExitStack, queue: QueueSettings) -> Clients:
        account = f"{queue.url.account}/{queue.url.region}"
        limiter = self._limiters.setdefault(account, RateLimiter(self.settings.mps_rate))
        traces = self._shared.traces
        clients = open_clients(
            queue,
            ca_file=self.settings.ca_file,
            limiter=limiter,
            observe=self.metrics.api_call,
            trace=None if traces is None else traces.calling,
            on_keys=_mask,
        )
        return await stack.enter_async_context(clients)

    @asynccontextmanager
    async def _second_client(self, queue: QueueSettings, clients: Clients) -> AsyncIterator[QueueCalls]:
        """Opens a client of one queue in another thread's event loop."""
        ca_file, observe = self.settings.ca_file, self.metrics.api_call
        async with open_queue(
            queue, clients.credentials, ca_file=ca_file, observe=observe, read_margin_s=ANSWER_S
        ) as calls:
            yield QueueAndNoQueue(calls, NoQueue())

    async def _work(self, started: anyio.Event | None) -> None:
        """Poll and handle, then drain; returns when every delivery is settled or the deadline is over."""
        deliveries = self._deliveries
        settle_s = HURRY_S
        try:
            await self._poll(deliveries, started)
            await self.stopping.drain()
            await self.stopping.flush()
            # What is not settled at the deadline is left to its lease.
            settle_s = 0.0
        finally:
            # Cancelled, or ended by a bug: outcomes that are being persisted get a moment.
            with anyio.CancelScope(shield=True):
                self.stopping.interrupt_all()
                await deliveries.end(settle_s)

    async def _poll(self, deliveries: Tasks, started: anyio.Event | None) -> None:
        """Poll until a stop is requested and every receive has ended."""

        def start(lane: Lane, received: Sequence[Delivery]) -> None:
            for delivery in received:
                deliveries.begin(process(lane, delivery))
            if received:
                self._watch.wake()

        async with anyio.create_task_group() as limit:
            async with anyio.create_task_group() as polls:
                self.pollers = [Poller(lane, start) for lane in self.lanes]
                for poller in self.pollers:
                    polls.start_soon(poller.run)
                self._log_started(started)
                await self.stopping.asked.wait()
                await self.stopping.end_polls(self.pollers)
                limit.start_soon(self.stopping.cut_polls, polls.cancel_scope)
            limit.cancel_scope.cancel("all polls have ended")

    def _log_started(self, started: anyio.Event | None) -> None:
        queues, handlers = [lane.name for lane in self.lanes], list(self.registry.handlers)
        log.info("started", version=self.version, queues=queues, handlers=handlers, admin_port=self.admin_port)
        self.vitals.serving = True
        if started is not None:
            started.set()


async def _message_without_queue(mps: Mps, job_id: str) -> Message:
    """Ask MPS for a job that has ended. Raises ``UsageError`` for any other, ``CloudError`` without an answer."""
    answer = await mps.query(job_id)
    if not answer.found:
        raise UsageError(f"job {job_id!r}: MPS says that it is not an intelligent production job")
    if answer.state not in ENDED:
        raise UsageError(f"job {job_id!r} is {answer.state!r}: expected one that has ended; try again later")
    return message_of(answer)


def _mask(keys: Keys) -> None:
    """Keep the default chain's keys out of the logs; an older pair may still be in use."""
    SECRETS.protect(keys.access_key_secret, slot="chain secret")
    SECRETS.protect(keys.security_token, slot="chain token")
