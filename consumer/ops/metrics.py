"""Every metric that the daemon exports: its name, its help, its labels and the values that a fixed label takes.

A label's value is a queue, a registered handler's name or a member of a fixed list, never a text from a message. What
each message updates is a bound child, found by attribute or by label value: no label is formatted on the way.

    metrics.queue("jobs").received.inc()
    metrics.queue("jobs").function("Cover").jobs[SettledAs.DONE].inc()
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from consumer.errors import Fault
from consumer.job_state import CodeClass, JobState, code_class
from consumer.notify_url import queue_names
from consumer.policy import Reason, SubmissionState

PREFIX: Final = "mns_consumer_"
OTHER: Final = "other"
"""The ``function`` label of each message whose FunctionName has no registered handler; the ``state`` of no MPS job."""
OK: Final = "ok"

HANDLER_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""From a handler that writes one row to one that encodes a film."""
SETTLED_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 43_200)
"""Up to twelve hours: a retried message waits up to an hour between two attempts, any waits while daemons are down."""
API_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
"""A long poll of an idle queue takes up to 30 s."""


class SettledAs(StrEnum):
    """How one delivery of a message ended."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DUPLICATE = "duplicate"  # the job had ended before: deleted, no handler ran
    INTERMEDIATE = "intermediate"  # a state in which the job goes on: deleted, no handler ran
    DROPPED = "dropped"  # no handler takes it, and the settings say to drop such messages
    LEASE_LOST = "lease_lost"
    RELEASED = "released"  # given back without an end: the daemon stops, or the job runs elsewhere


class PollResult(StrEnum):
    """What a successful receive brought. A failed one counts under its ``Fault``."""

    MESSAGES = "messages"
    EMPTY = "empty"
    SHED = "shed"  # empty well before the end of the long poll: the service sheds load


class RenewalResult(StrEnum):
    """How one renewal of a lease ended."""

    RENEWED = "renewed"
    FAILED = "failed"  # the lease may still be held: the renewal is tried again
    LOST = "lost"


class DeleteResult(StrEnum):
    """How the deletion of one message ended."""

    DELETED = "deleted"
    GONE = "gone"  # the receipt handle was no longer valid; counts as a success
    FAILED = "failed"  # tried again; if that never works, the redelivery is found to be a duplicate


class RetryCause(StrEnum):
    """Why a message was hidden for a later attempt."""

    FAILED = "failed"  # the handler raised
    TIMED_OUT = "timed_out"  # the handler passed its time limit
    ASKED = "asked"  # the handler raised ``Retry``
    WAITING = "waiting"  # the handler raised ``Wait``, or ``Retry`` that counts as no failure
    NOT_READY = "not_ready"  # MPS says that the job goes on
    UNANSWERED = "unanswered"  # MPS fails for this job, while it answers for others
    UNAVAILABLE = "unavailable"  # a service or the store did not answer
    NO_ROOM = "no_room"  # it would become a dead letter, and the store holds as many as it may


class LetterHookResult(StrEnum):
    """How one call of the hook of dead letters ended."""

    DONE = "done"
    FAILED = "failed"  # it raised: it is called again, with a growing pause, like one that timed out
    TIMED_OUT = "timed_out"


class QueryResult(StrEnum):
    """What a query for a job's result brought."""

    ENDED = "ended"
    NOT_READY = "not_ready"
    UNKNOWN = "unknown"  # MPS does not know the job as an intelligent production job
    FAILED = "failed"


class ReloadResult(StrEnum):
    """How a reload of settings and handlers ended."""

    APPLIED = "applied"
    REFUSED = "refused"  # something in it is wrong: the old settings and handlers are kept


class MessageState(StrEnum):
    """Where a message in its queue is, by MNS's counts."""

    ACTIVE = "active"  # it waits
    INACTIVE = "inactive"  # received and not yet deleted, or hidden for a retry
    DELAYED = "delayed"  # not yet visible for the first time


class MetricInfo(NamedTuple):
    """One metric as it is defined; ``fixed`` are the labels with fixed values. The documentation lists these."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    fixed: Mapping[str, tuple[str, ...]]

    @property
    def values(self) -> tuple[str, ...]:
        """The fixed values of the last label."""
        return self.fixed.get(self.labels[-1], ())


class Children(dict[str, Counter]):
    """A counter's bound children by the value of the last label, each made at its first use; another is a KeyError.

    ``labels`` are all but the last. ``eager`` values are exported as 0 at once, so that a rate sees the first.
    """

    def __init__(self, counter: Counter, info: MetricInfo, *labels: str, eager: Iterable[str] = ()) -> None:
        super().__init__()
        self._counter = counter
        self._info = info
        self._labels = labels
        for value in eager:
            self[value]

    def __missing__(self, value: str) -> Counter:
        info = self._info
        if value not in info.values:
            raise KeyError(f"{value!r} is no value of {info.labels[-1]!r}; known: {', '.join(sorted(info.values))}")
        child = self[str(value)] = self._counter.labels(*self._labels, str(value))
        return child


class FunctionMetrics:
    """The metrics of one handler's name, or of ``OTHER``, on one queue."""

    def __init__(self, metrics: Metrics, queue: str, function: str) -> None:
        labels = (queue, function)
        self.jobs = metrics.jobs(*labels, eager=(SettledAs.DONE, SettledAs.RETRY, SettledAs.DEAD))
        self.retries = metrics.retries(*labels)
        self.dead_letters = metrics.dead_letters(*labels)
        self._mps_jobs = {state: metrics.mps_jobs(*labels, state) for state in (*JobState, OTHER)}
        self.seconds: Histogram = metrics.handler_seconds.labels(*labels)
        self.reconciled: Counter = metrics.reconciled.labels(*labels)

    def count_mps_job(self, state: str, code: str | None) -> None:
        """Count one job that is done or set aside, by MPS's texts."""
        self._mps_jobs.get(state, self._mps_jobs[OTHER])[code_class(code)].inc()


class QueueMetrics:
    """The metrics of one queue."""

    def __init__(self, metrics: Metrics, queue: str) -> None:
        self.name = queue
        self._metrics = metrics
        self._functions: dict[str, FunctionMetrics] = {}
        self.polls = metrics.polls(queue, eager=PollResult)
        self.renewals = metrics.lease_renewals(queue, eager=RenewalResult)
        self.deletes = metrics.deletes(queue, eager=DeleteResult)
        self.letter_hooks = metrics.letter_hooks(queue, eager=LetterHookResult)
        self.received: Counter = metrics.messages_received.labels(queue)
        self.wait_seconds: Histogram = metrics.queue_wait_seconds.labels(queue)
        self.settled_seconds: Histogram = metrics.settled_seconds.labels(queue)
        self.in_flight: Gauge = metrics.in_flight.labels(queue)
        self.slots: Gauge = metrics.slots.labels(queue)
        self.stuck: Gauge = metrics.stuck_handlers.labels(queue)
        self.last_poll: Gauge = metrics.last_poll.labels(queue)
        self.last_success: Gauge = metrics.last_success.labels(queue)
        self.names_in_flight: Callable[[], Iterable[str]] = tuple
        """Gives the FunctionName of each message in flight."""

    def set_messages(self, **counts: int | None) -> None:
        """Set MNS's counts by ``MessageState``; one that is unknown is not exported."""
        for state in MessageState:
            if (count := counts.get(state)) is None:
                self._metrics.queue_messages.remove(self.name, state)
            else:
                self._metrics.queue_messages.labels(self.name, state).set(count)

    def set_submissions(self, counts: Mapping[SubmissionState, int]) -> None:
        """Set the open submissions by state."""
        for state, count in counts.items():
            self._metrics.submissions.labels(self.name, state).set(count)

    def count_in_flight(self) -> Mapping[str, int]:
        """The messages in flight, by the label ``function``."""
        counts = dict.fromkeys(self._functions, 0)
        for name in self.names_in_flight():
            label = self._label(name)
            counts[label] = counts.get(label, 0) + 1
        return counts

    def _label(self, name: str) -> str:
        return name if name in self._metrics.functions else OTHER

    def function(self, name: str) -> FunctionMetrics:
        """The metrics of one FunctionName, or those of ``OTHER`` where no handler is registered for it."""
        label = self._label(name)
        found = self._functions.get(label)
        if found is None:
            found = self._functions[label] = FunctionMetrics(self._metrics, self.name, label)
        return found


class _InFlight(Collector):
    """Counts the messages in flight at each scrape, so that no message pays for it."""

    def __init__(self, info: MetricInfo, queues: Mapping[str, QueueMetrics]) -> None:
        self._info = info
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        gauge = GaugeMetricFamily(self._info.name, self._info.help, labels=self._info.labels)
        for name, queue in self._queues.items():
            for function, count in queue.count_in_flight().items():
                gauge.add_metric((name, function), count)
        yield gauge


class Metrics:
    """All metrics of one daemon, in a registry of their own.

    Args:
        functions: The names that have a handler.
        queues: The identities of the daemon's queues.
    """

    def __init__(self, functions: Iterable[str] = (), *, queues: Iterable[str] = (), version: str = "unknown") -> None:
        # A "_created" sample beside each counter doubles a scrape; process_start_time_seconds says the same. The
        # library has only this process-wide switch.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = CollectorRegistry()
        self.functions: frozenset[str] = frozenset()
        self.catalogue: list[MetricInfo] = []
        """Every metric of the program's own, in the order of the documentation's table."""
        self._names = queue_names(frozenset(queues))
        self._queues: dict[str, QueueMetrics] = {}
        self._letter_groups: tuple[tuple[str, str], ...] = ()
        self._api: dict[str, tuple[Children, Histogram]] = {}
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._define_messages()
        self._define_services()
        self._define_daemon()
        self.build_info.labels(version, platform.python_version()).set(1)
        self.register(functions)

    def _define_messages(self) -> None:
        by_value, gauge, histogram = self._counter_by_value, self._gauge, self._histogram
        self.polls = by_value("polls_total", "Receives that ended, by result.", "queue", result=(*PollResult, *Fault))
        self.messages_received = self._counter("messages_received_total", "Messages received.", "queue")
        self.queue_messages = gauge(
            "queue_messages",
            "Messages in the queue, about, as MNS counts them. MNS withdraws these counts: it may say 0 at any time.",
            "queue",
            state=MessageState,
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds",
            "Time from a message's entry into the queue until its first receipt.",
            SETTLED_BUCKETS_S,
            "queue",
        )
        work = ("queue", "function")
        self.jobs = by_value("jobs_total", "Deliveries that ended, by outcome.", *work, outcome=SettledAs)
        self.handler_seconds = histogram("handler_duration_seconds", "Run time of handlers.", HANDLER_BUCKETS_S, *work)
        self.settled_seconds = histogram(
            "settled_seconds",
            "Time from a message's entry into the queue until it was done, set aside or found a duplicate.",
            SETTLED_BUCKETS_S,
            "queue",
        )
        self.in_flight = gauge("in_flight", "Messages received and not yet settled.", "queue")
        by_function = self._define("gauge", "function_in_flight", "Messages in flight, by function.", work)
        self.registry.register(_InFlight(by_function, self._queues))
        self.slots = gauge("slots", "Messages that handlers may work on at once.", "queue")
        self.lease_renewals = by_value("lease_renewals_total", "Renewals of leases.", "queue", result=RenewalResult)
        self.deletes = by_value("deletes_total", "Deletions of messages, by result.", "queue", result=DeleteResult)
        self.retries = by_value("retries_total", "Messages hidden for a later attempt.", *work, cause=RetryCause)
        self.dead_letters = by_value("dead_letters_total", "Messages set aside, by reason.", *work, reason=Reason)
        self.letter_hooks = by_value(
            "letter_hooks_total", "Calls of the hook of dead letters, by result.", "queue", result=LetterHookResult
        )
        self.mps_jobs = by_value(
            "mps_jobs_total",
            "Jobs done or set aside, by MPS's state and the class of its code.",
            *work,
            state=(*JobState, OTHER),
            code=CodeClass,
        )
        self.submissions = gauge(
            "submissions", "Recorded submissions whose jobs have not ended.", "queue", state=SubmissionState.open()
        )
        self.reconciled = self._counter(
            "reconciled_total", "Jobs whose end was found by asking MPS, since no notification reported it.", *work
        )
        self.stuck_handlers = gauge("stuck_handlers", "Handlers left behind that run past their time limit.", "queue")
        self.last_poll = gauge("last_poll_timestamp_seconds", "UNIX time of the last successful receive.", "queue")
        self.last_success = gauge("last_success_timestamp_seconds", "UNIX time at which a job was last done.", "queue")

    def _define_services(self) -> None:
        by_value, gauge = self._counter_by_value, self._gauge
        self.api_requests = by_value("api_requests_total", "Calls to MNS and MPS.", "operation", result=(OK, *Fault))
        self.api_request_seconds = self._histogram(
            "api_request_duration_seconds",
            "Time of a call, the wait of a long poll included.",
            API_BUCKETS_S,
            "operation",
        )
        queries = by_value("result_queries_total", "Queries to MPS for a job's result, by answer.", result=QueryResult)
        self.result_queries = queries(eager=QueryResult)
        self.store_up = gauge("store_up", "1 while the store takes writes, else 0.")
        self.store_busy_seconds = gauge("store_busy_seconds", "Duration of the store's present call; 0 between calls.")
        self._letters_waiting = gauge(
            "dead_letters_waiting", "Dead letters in the store that are not replayed.", "queue", reason=Reason
        )
        self._oldest_letter = gauge(
            "dead_letters_oldest_timestamp_seconds", "UNIX time at which the oldest of them was stored.", "queue"
        )
        self.letters_stored = gauge("dead_letters_stored", "Dead letters that count towards the limit.")
        self.letters_stored_bytes = gauge("dead_letters_stored_bytes", "Bytes of their bodies and texts.")
        self.letters_limit_ratio = gauge("dead_letters_limit_ratio", "Used share of the limits, the larger of the two.")
        self.letters_full = gauge("dead_letters_full", "1 while polling pauses because a limit is reached, else 0.")

    def _define_daemon(self) -> None:
        counter = self._counter
        reloads = self._counter_by_value("reloads_total", "Reloads of settings and handlers.", result=ReloadResult)
        self.reloads = reloads(eager=ReloadResult)
        self.loop_blocks = counter("event_loop_blocks_total", "Blocks of the event loop for more than a second.")
        self.loop_blocked_seconds = counter("event_loop_blocked_seconds_total", "Seconds for which it was blocked.")
        self.log_lines_dropped = counter("log_lines_dropped_total", "Log lines lost: their reader was gone or slow.")
        self.build_info = self._gauge("build_info", "1; the labels hold the versions.", "version", "python")

    def _define(self, kind: str, name: str, text: str, labels: Sequence[str], **fixed: Iterable[str]) -> MetricInfo:
        values = {label: tuple(str(value) for value in words) for label, words in fixed.items()}
        info = MetricInfo(PREFIX + name, kind, text, (*labels, *fixed), values)
        self.catalogue.append(info)
        return info

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        info = self._define("counter", name, text, labels)
        return Counter(info.name, text, info.labels, registry=self.registry)

    def _counter_by_value(self, name: str, text: str, *labels: str, **fixed: Iterable[str]) -> partial[Children]:
        info = self._define("counter", name, text, labels, **fixed)
        return partial(Children, Counter(info.name, text, info.labels, registry=self.registry), info)

    def _gauge(self, name: str, text: str, *labels: str, **fixed: Iterable[str]) -> Gauge:
        info = self._define("gauge", name, text, labels, **fixed)
        return Gauge(info.name, text, info.labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        info = self._define("histogram", name, text, labels)
        return Histogram(info.name, text, info.labels, registry=self.registry, buckets=buckets)

    def register(self, functions: Iterable[str]) -> None:
        """Add handlers' names to the values of the ``function`` label; no name is ever removed."""
        # A lone surrogate in a name would make each later scrape fail to encode.
        self.functions |= {name for name in functions if name != "*" and name.isprintable()}

    def name_of(self, identity: str) -> str:
        """The name of one of the daemon's queues, in its metrics and in the logs."""
        return self._names.get(identity) or identity.rpartition("/")[2]

    def queue(self, name: str) -> QueueMetrics:
        """The metrics of one configured queue, by ``name_of``; the same object each time."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = QueueMetrics(self, name)
        return found

    def api_call(self, operation: str, fault: Fault | None, seconds: float) -> None:
        """Count one call to the cloud; ``operation`` is one of the clients' constants, ``fault`` None for a success."""
        bound = self._api.get(operation)
        if bound is None:
            requests = self.api_requests(operation, eager=(OK,))
            bound = self._api[operation] = (requests, self.api_request_seconds.labels(operation))
        bound[0][OK if fault is None else fault].inc()
        bound[1].observe(seconds)

    def loop_blocked(self, seconds: float) -> None:
        """Count one block of the event loop."""
        self.loop_blocks.inc()
        self.loop_blocked_seconds.inc(seconds)

    def set_letters_waiting(self, groups: Iterable[tuple[str, str, int, float]]) -> None:
        """Replace what is known of the stored dead letters: queue's identity, reason, number, UNIX time of the oldest.

        A group that was there before and is missing now counts 0.
        """
        groups = list(groups)
        # A shared store also holds letters of queues that other daemons serve.
        names = queue_names({*self._names, *(identity for identity, *_ in groups)}) | self._names
        waiting = dict.fromkeys(self._letter_groups, 0)
        oldest: dict[str, float] = {}
        for identity, reason, count, oldest_at in groups:
            queue = names[identity]
            waiting[queue, reason] = waiting.get((queue, reason), 0) + count
            oldest[queue] = min(oldest_at, oldest.get(queue, oldest_at))
        for group, count in waiting.items():
            self._letters_waiting.labels(*group).set(count)
        self._letter_groups = tuple(waiting)
        # No letter, no time: 0 would read as a letter of 1970.
        self._oldest_letter.clear()
        for queue, oldest_at in oldest.items():
            self._oldest_letter.labels(queue).set(oldest_at)

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """All metrics and their content type, in OpenMetrics where ``accept`` asks for it: about 5 us a line."""
        encode: Callable[[CollectorRegistry], bytes]
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type
