"""Every figure that the daemon exports: its name, its labels, the words a label may take.

Two rules decide the shape. A label's value is a configured queue, a registered handler's name or a word
of a fixed list, never a text that came in a message. And what is updated for each message is a *bound
child*, looked up by attribute or by word: no label is formatted while messages flow.

    Metrics -> queue("jobs") -> QueueMetrics -> function("Cover") -> FunctionMetrics
                                .received.inc()                      .jobs[Outcome.DONE].inc()

Elsewhere: the words (``ops.words``), serving them over HTTP (``ops.admin``), when each moves (``engine``).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from consumer.errors import Fault
from consumer.ops.words import (
    DeleteResult,
    Outcome,
    PollResult,
    QueryResult,
    ReloadResult,
    RenewalResult,
    RetryCause,
)
from consumer.policy import Reason

PREFIX: Final = "mns_consumer_"
OTHER: Final = "other"
"""The ``function`` label of every message whose FunctionName no handler is registered for."""

HANDLER_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""From a handler that only writes a row to one that encodes a film."""
SETTLED_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 43_200)
"""Up to twelve hours: a retried message waits up to an hour between two tries."""
API_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
"""A long poll takes up to 30 s when the queue is idle, and that is well."""


OK: Final = "ok"
_POLL_WORDS: Final = frozenset((*PollResult, *Fault))
_API_WORDS: Final = frozenset((OK, *Fault))


class MetricInfo(NamedTuple):
    """One line of the catalogue.

    Args:
        name: As it is scraped, ``_total`` included.
        type: ``counter``, ``gauge`` or ``histogram``.
        labels: Names of its labels.
        help: What it says, one sentence.
    """

    name: str
    type: str
    labels: Sequence[str]
    help: str


class Words(dict[str, Counter]):
    """The children of one counter by the word of their last label; each is bound when first asked for.

    Args:
        parent: The counter.
        labels: The values of the labels before the last.
        allowed: The only words; any other is a ``KeyError``, so that no text from outside becomes a label.
        eager: Words to export as 0 from the start, so that a first event shows as a rise.
    """

    __slots__ = ("_allowed", "_labels", "_parent")

    def __init__(
        self, parent: Counter, labels: Sequence[str], allowed: Iterable[str], eager: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self._parent = parent
        self._labels = labels
        self._allowed = frozenset(allowed)
        for word in eager:
            self[word]

    def __missing__(self, word: str) -> Counter:
        if word not in self._allowed:
            raise KeyError(f"{word!r} is no label value; known: {', '.join(sorted(self._allowed))}")
        child = self[str(word)] = self._parent.labels(*self._labels, str(word))
        return child


class FunctionMetrics:
    """What is counted for one handler's name on one queue.

    Args:
        metrics: The set it belongs to.
        queue: The queue's label.
        function: A registered name, or ``OTHER``.
    """

    __slots__ = ("dead_letters", "jobs", "retries", "seconds")

    def __init__(self, metrics: Metrics, queue: str, function: str) -> None:
        labels = (queue, function)
        self.jobs = Words(metrics.jobs, labels, Outcome, (Outcome.DONE, Outcome.RETRY, Outcome.DEAD))
        self.retries = Words(metrics.retries, labels, RetryCause)
        self.dead_letters = Words(metrics.dead_letters, labels, Reason)
        self.seconds: Histogram = metrics.handler_seconds.labels(*labels)


class QueueMetrics:
    """What is counted for one queue; every attribute is a bound child, or maps a word to one.

    Args:
        metrics: The set it belongs to.
        queue: The queue's label.
    """

    __slots__ = (
        "_functions", "_metrics", "deletes", "in_flight", "last_poll", "last_success", "name", "polls",
        "received", "renewals", "settled_seconds", "slots", "stuck",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, queue: str) -> None:
        self.name = queue
        self._metrics = metrics
        self._functions: dict[str, FunctionMetrics] = {}
        labels = (queue,)
        self.polls = Words(metrics.polls, labels, _POLL_WORDS, PollResult)
        self.renewals = Words(metrics.lease_renewals, labels, RenewalResult, RenewalResult)
        self.deletes = Words(metrics.deletes, labels, DeleteResult, DeleteResult)
        self.received: Counter = metrics.messages_received.labels(queue)
        self.settled_seconds: Histogram = metrics.settled_seconds.labels(queue)
        self.in_flight: Gauge = metrics.in_flight.labels(queue)
        self.slots: Gauge = metrics.slots.labels(queue)
        self.stuck: Gauge = metrics.stuck_handlers.labels(queue)
        self.last_poll: Gauge = metrics.last_poll.labels(queue)
        self.last_success: Gauge = metrics.last_success.labels(queue)

    def function(self, name: str) -> FunctionMetrics:
        """The counters of one FunctionName, or those of ``OTHER`` when no handler is registered for it."""
        label = name if name in self._metrics.functions else OTHER
        found = self._functions.get(label)
        if found is None:
            found = self._functions[label] = FunctionMetrics(self._metrics, self.name, label)
        return found


class Metrics:
    """All figures of one daemon, over a registry of their own.

    Args:
        functions: The names that handlers are registered for; ``*`` counts as ``OTHER``.
        version: The program's version, for ``build_info``.
    """

    def __init__(self, functions: Iterable[str] = (), *, version: str = "unknown") -> None:
        # A "_created" sample beside every counter doubles a scrape and says nothing that a restart's
        # process_start_time_seconds doesn't. The library offers only this process-wide switch.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = CollectorRegistry()
        self.functions: frozenset[str] = frozenset()
        self._catalogue: list[MetricInfo] = []
        self._queues: dict[str, QueueMetrics] = {}
        self._api: dict[str, tuple[Words, Histogram]] = {}
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._define_work()
        self._define_surroundings()
        self.build_info.labels(version, platform.python_version()).set(1)
        self.register(functions)

    def _define_work(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.polls = counter("polls_total", "Receives that ended, by what they brought.", "queue", "result")
        self.messages_received = counter("messages_received_total", "Messages received.", "queue")
        self.jobs = counter("jobs_total", "Deliveries that ended, by how they ended.", "queue", "function", "outcome")
        self.handler_seconds = histogram(
            "handler_seconds", "Run time of handlers.", HANDLER_BUCKETS_S, "queue", "function"
        )
        self.settled_seconds = histogram(
            "settled_seconds",
            "Time from a message's entry into the queue until it was done, set aside or found a duplicate.",
            SETTLED_BUCKETS_S,
            "queue",
        )
        self.in_flight = gauge("in_flight", "Messages held now, from receipt to settled.", "queue")
        self.slots = gauge("slots", "Messages that handlers may work on at once.", "queue")
        self.lease_renewals = counter(
            "lease_renewals_total", "Renewals of a message's lease, by result.", "queue", "result"
        )
        self.deletes = counter("deletes_total", "Deletions of messages, by result.", "queue", "result")
        self.retries = counter(
            "retries_total", "Messages hidden to come back later, by cause.", "queue", "function", "cause"
        )
        self.dead_letters = counter(
            "dead_letters_total", "Messages set aside, by reason.", "queue", "function", "reason"
        )
        self.stuck_handlers = gauge(
            "stuck_handlers", "Handlers that still run though their time is over and nothing waits for them.", "queue"
        )

    def _define_surroundings(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.api_requests = counter("api_requests_total", "Calls to MNS and MPS, by result.", "operation", "result")
        self.api_request_seconds = self._histogram(
            "api_request_seconds",
            "Time of a call to MNS or MPS, a long poll's waiting included.",
            API_BUCKETS_S,
            "operation",
        )
        queries = counter("result_queries_total", "Questions to MPS for a job's result, by answer.", "result")
        self.result_queries = Words(queries, (), QueryResult, QueryResult)
        self.last_poll = gauge(
            "last_poll_timestamp_seconds", "UNIX time at which the last receive ended well.", "queue"
        )
        self.last_success = gauge("last_success_timestamp_seconds", "UNIX time at which a job was last done.", "queue")
        self.store_up = gauge("store_up", "1 while the store takes writes, else 0.")
        self.store_busy_seconds = gauge(
            "store_busy_seconds", "For how long the disk has been at the store's present call; 0 between two calls."
        )
        self.letters_stored = gauge("dead_letters_stored", "Dead letters in the store that are not replayed.")
        self.letters_stored_bytes = gauge("dead_letters_stored_bytes", "Bytes of their bodies and texts.")
        self.letters_limit_ratio = gauge(
            "dead_letters_limit_ratio", "How much of the limits of dead letters is used, of the two the larger share."
        )
        self.letters_full = gauge("dead_letters_full", "1 while polling pauses because they reached a limit, else 0.")
        reloads = counter("reloads_total", "Reloads of settings and handlers, by result.", "result")
        self.reloads = Words(reloads, (), ReloadResult, ReloadResult)
        self.loop_blocks = counter(
            "event_loop_blocks_total", "Times that something blocked the event loop for more than a second."
        )
        self.loop_blocked_seconds = counter("event_loop_blocked_seconds_total", "Seconds for which it was blocked.")
        self.log_lines_dropped = counter(
            "log_lines_dropped_total", "Log lines lost because their reader was gone or too slow."
        )
        self.build_info = gauge("build_info", "1; the labels say what runs.", "version", "python")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._catalogue.append(MetricInfo(PREFIX + name, "counter", labels, text))
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._catalogue.append(MetricInfo(PREFIX + name, "gauge", labels, text))
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self._catalogue.append(MetricInfo(PREFIX + name, "histogram", labels, text))
        return Histogram(PREFIX + name, text, labels, registry=self.registry, buckets=buckets)

    def register(self, functions: Iterable[str]) -> None:
        """Let more handlers' names become label values; those known before stay."""
        # A lone surrogate in a name would make every later scrape fail to encode.
        clean = {name for name in functions if name != "*" and name.isprintable()}
        self.functions |= clean

    def queue(self, name: str) -> QueueMetrics:
        """The figures of one configured queue; the same object each time."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = QueueMetrics(self, name)
        return found

    def api_call(self, operation: str, fault: Fault | None, seconds: float) -> None:
        """Count one call to the cloud.

        Args:
            operation: The API's name of the call: one of the clients' constants, never a text from outside.
            fault: Why it failed; ``None`` when it did not.
            seconds: From its start to the end of its answer.
        """
        bound = self._api.get(operation)
        if bound is None:
            requests = Words(self.api_requests, (operation,), _API_WORDS, (OK,))
            bound = self._api[operation] = (requests, self.api_request_seconds.labels(operation))
        bound[0][OK if fault is None else fault].inc()
        bound[1].observe(seconds)

    def loop_blocked(self, seconds: float) -> None:
        """Count one block of the event loop."""
        self.loop_blocks.inc()
        self.loop_blocked_seconds.inc(seconds)

    def catalogue(self) -> Sequence[MetricInfo]:
        """Every metric of the program's own, in the order in which the README lists them."""
        return tuple(self._catalogue)

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """All figures as text.

        Args:
            accept: The scraper's ``Accept`` header; OpenMetrics when it asks for it, else the classic text.

        Returns:
            The body and its content type. About 5 us a line: some 2 ms for one queue with a few handlers.
        """
        encode: Callable[[CollectorRegistry], bytes]
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type
