"""Tell OpenTelemetry what happens to messages: spans and metrics by its messaging conventions. The extra ``otel``.

    receive JOBS     one answer with messages             kind client
    process JOBS     one message's life, linked to receive and to the span that its sender put into ``traceparent``
    delete, hide     how a batch or a message was settled kind client, linked to the lives that it ends

Whoever may send to the queue may write a ``traceparent``. As a link it joins two traces and decides nothing. As a
parent (setting ``trust_trace_parent``) it also decides which trace the spans belong to and whether they are sampled,
and the sender's ``baggage`` is handed on to whatever the handler calls.

Where it is off, nothing of OpenTelemetry is imported and a message passes one comparison with ``None``. Where to, how
many and under which name is told by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and its like).

Elsewhere: who calls this (``app``, ``engine``), the figures for Prometheus (``ops.metrics``).

See OpenTelemetry semantic conventions 1.37, messaging spans and metrics; W3C Trace Context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from consumer.errors import SettingsError
from consumer.ops.logs import LogFields

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext, Tracer

SYSTEM: Final = "alibaba_mns"
_NS: Final = 1_000_000_000
_NAMELESS: Final = "unknown_service"
"""How OpenTelemetry begins the name of a service that its variables give none."""
_READERS_LOGGERS: Final = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
"""They warn of every malformed ``baggage`` and ``tracestate``, with its text: a line or more for each message."""
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 60, 300)


class Traces:
    """What is told of one daemon's messages.

    Args:
        spans: Where spans go.
        figures: Where metrics go.
        version: The program's.
        trusted: Whether a sender's span is the parent of its message's, and its baggage is taken over.
    """

    def __init__(self, spans: TracerProvider, figures: MeterProvider, version: str, *, trusted: bool = False) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - an extra, loaded where it is asked for
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 - the same

        for name in _READERS_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._trace = trace
        self._context = context
        self._trusted = trusted
        self._extract = propagate.extract if trusted else tracecontext.TraceContextTextMapPropagator().extract
        self._spans = spans
        self._figures = figures
        self._tracer: Tracer = spans.get_tracer("mns-consumer", version)
        meter: Meter = figures.get_meter("mns-consumer", version)
        self._operation_s = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of receives and settlements.",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Messages received."
        )
        self._process_s = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of messages' lives.",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )

    def received(self, queue: str, count: int, seconds: float) -> SpanContext:
        """A receive has brought messages.

        Args:
            queue: From where.
            count: How many.
            seconds: How long it took.

        Returns:
            What the messages' lives are linked to.
        """
        said = _said(queue, "receive", "receive")
        self._consumed.add(count, said)
        return self._operation(said, count, seconds, ())

    def settled(self, queue: str, how: str, lives: Sequence[Span | None], seconds: float, fault: str) -> None:
        """Messages were deleted or hidden, or could not be.

        Args:
            queue: Whose.
            how: ``delete`` or ``hide``.
            lives: The lives that it ends, as ``processing`` gave them.
            seconds: How long the call took.
            fault: Why it failed; empty when it did not.
        """
        said = _said(queue, how, "settle")
        if fault:
            said["error.type"] = fault
        self._operation(said, len(lives), seconds, [life.get_span_context() for life in lives if life is not None])

    @contextmanager
    def processing(
        self, queue: str, message_id: str, carried: Mapping[str, str], received: SpanContext | None
    ) -> Iterator[Span]:
        """Put one message's life into a span; log lines within carry its ids.

        Args:
            queue: Where it came from.
            message_id: Which.
            carried: Its properties; ``traceparent`` and ``tracestate`` are read, ``baggage`` where it is trusted. What
                is malformed counts as not there.
            received: The receive that brought it.
        """
        said = {**_said(queue, "process", "process"), "messaging.message.id": message_id}
        links = [] if received is None else [self._trace.Link(received)]
        nothing = self._context.Context()
        above = self._extract({name.lower(): value for name, value in carried.items()}, nothing)
        if not self._trusted:
            sender = self._trace.get_current_span(above).get_span_context()
            links += [self._trace.Link(sender)] if sender.is_valid else []
            above = nothing
        began_s = time.monotonic()
        token = self._context.attach(above)
        try:
            with self._tracer.start_as_current_span(
                f"process {queue}", above, self._trace.SpanKind.CONSUMER, said, links
            ) as span:
                ids = span.get_span_context()
                with LogFields(trace_id=f"{ids.trace_id:032x}", span_id=f"{ids.span_id:016x}"):
                    yield span
        finally:
            self._context.detach(token)
            self._process_s.record(time.monotonic() - began_s, _said(queue, "process", "process"))

    def ended(self, span: Span, fault: str, **more: str | int | None) -> None:
        """Say in a life's span how it ended.

        Args:
            span: As ``processing`` gave it.
            fault: Why it failed, as a word; empty when it did not.
            more: What else is known, by name.
        """
        span.set_attributes({f"mns_consumer.{name}": value for name, value in more.items() if value is not None})
        if fault:
            span.set_attribute("error.type", fault)
            span.set_status(self._trace.StatusCode.ERROR)

    def close(self, within_s: float) -> None:
        """Send what is left; blocks for no longer than that."""
        self._spans.force_flush(int(within_s * 1000))
        self._figures.force_flush(int(within_s * 1000))
        self._spans.shutdown()
        self._figures.shutdown()

    def _operation(
        self, said: dict[str, str | int], count: int, seconds: float, links: Sequence[SpanContext]
    ) -> SpanContext:
        self._operation_s.record(seconds, said)
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{said['messaging.operation.name']} {said['messaging.destination.name']}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={**said, "messaging.batch.message_count": count},
            links=[self._trace.Link(link) for link in links],
            start_time=ended_ns - int(seconds * _NS),
        )
        if "error.type" in said:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended_ns)
        return span.get_span_context()


def open_traces(version: str, *, trusted: bool = False) -> Traces:
    """Get ready to tell, as OpenTelemetry's variables say.

    Args:
        version: The program's.
        trusted: As for ``Traces``.

    Raises:
        SettingsError: The extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"otel: OpenTelemetry is not installed ({error}); pip install 'mns-consumer[otel]', or leave otel off"
        ) from None
    resource = Resource.create({"service.version": version})
    if str(resource.attributes.get("service.name", _NAMELESS)).startswith(_NAMELESS):
        resource = resource.merge(Resource({"service.name": "mns-consumer"}))
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return Traces(spans, MeterProvider([reader], resource=resource), version, trusted=trusted)


def _said(queue: str, name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
