"""OpenTelemetry spans and metrics for messages, by its messaging conventions. The extra ``otel``.

    receive JOBS     one receive that brought messages        kind client
    process JOBS     one delivery, linked to its receive, to the span that its sender named in ``traceparent``, and to
                     the job's last run before
    delete, hide     how a batch or a message was settled     kind client, linked to the deliveries that it ends
    Mts/METHOD       one call of MPS                          kind client, within the delivery that waits for it

Everyone who may send to the queue may write a ``traceparent``. As a link it joins two traces and decides nothing. As a
parent (setting ``trust_trace_parent``) it also decides which trace the spans belong to and whether they are sampled,
and the sender's ``baggage`` goes on to what the handler calls.

Where the extra is off, nothing of OpenTelemetry is imported. The exporter, sampling and names follow OpenTelemetry's
own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and its like).

See OpenTelemetry semantic conventions 1.37, messaging spans and metrics, RPC spans, exceptions; W3C Trace Context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from consumer.errors import CloudError, SettingsError, text_of, traceback_of
from consumer.ops.logs import LogFields
from consumer.ops.sanitize import SECRETS

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer

SYSTEM: Final = "alibaba_mns"
_MPS_API: Final = "Mts"
"""MPS's name as an API (facts/iproduction.md#submit-a-job)."""
_OK: Final = 200
_NS: Final = 1_000_000_000
_NAMELESS: Final = "unknown_service"
"""How OpenTelemetry begins the name of a service that its variables do not name."""
_PROPAGATION_LOGGERS: Final = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
"""They warn of each malformed ``baggage`` and ``tracestate``, with its text: a line or more for each message."""
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 60, 300)


class Traces:
    """The spans and metrics of one daemon. ``trusted`` makes a sender's span the parent of its message's."""

    def __init__(self, spans: TracerProvider, meters: MeterProvider, version: str, *, trusted: bool = False) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - an extra, loaded where it is asked for
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 - the same

        for name in _PROPAGATION_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._trace = trace
        self._context = context
        self._trusted = trusted
        self._extract_w3c = tracecontext.TraceContextTextMapPropagator().extract
        self._extract = propagate.extract if trusted else self._extract_w3c
        self._spans = spans
        self._meters = meters
        self._tracer: Tracer = spans.get_tracer("mns-consumer", version)
        meter: Meter = meters.get_meter("mns-consumer", version)
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
            description="Duration of deliveries.",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )

    def received(self, queue: str, count: int, seconds: float) -> SpanContext:
        """A receive brought messages. Returns the span that their deliveries are linked to."""
        attributes = _attributes(queue, "receive", "receive")
        self._consumed.add(count, attributes)
        return self._operation(attributes, count, seconds, ())

    def settled(self, queue: str, operation: str, spans: Sequence[Span | None], seconds: float, fault: str) -> None:
        """A ``delete`` or ``hide`` for the deliveries of these spans ended; ``fault`` is empty for a success."""
        attributes = _attributes(queue, operation, "settle")
        if fault:
            attributes["error.type"] = fault
        self._operation(attributes, len(spans), seconds, [span.get_span_context() for span in spans if span])

    @contextmanager
    def processing(
        self, queue: str, message_id: str, properties: Mapping[str, str], received: SpanContext | None
    ) -> Iterator[Span]:
        """Put one delivery into a span, whose ids stand on the log lines within.

        Of the message's properties ``traceparent`` and ``tracestate`` are read, ``baggage`` where it is trusted; a
        malformed one is ignored.
        """
        attributes = {**_attributes(queue, "process", "process"), "messaging.message.id": message_id}
        links = [] if received is None else [self._trace.Link(received)]
        names = {name.lower(): value for name, value in properties.items()}
        parent = self._extract(names, self._context.Context())
        if not self._trusted:
            sender = self._trace.get_current_span(parent).get_span_context()
            links += [self._trace.Link(sender)] if sender.is_valid else []
            parent = self._context.Context()
        began_s = time.monotonic()
        token = self._context.attach(parent)
        try:
            with self._failing_span(
                f"process {queue}", self._trace.SpanKind.CONSUMER, attributes, links=links, parent=parent
            ) as span:
                ids = span.get_span_context()
                with LogFields(trace_id=f"{ids.trace_id:032x}", span_id=f"{ids.span_id:016x}"):
                    yield span
        finally:
            self._context.detach(token)
            self._process_s.record(time.monotonic() - began_s, _attributes(queue, "process", "process"))

    @contextmanager
    def calling(self, method: str, host: str, port: int | None) -> Iterator[Callable[[str], None]]:
        """Put one call of MPS into a span, which belongs to the delivery whose task makes it, if one does.

        Yields:
            To be called with the request id of the answer.
        """
        attributes: dict[str, str | int] = {
            "rpc.system": "aliyun-api",
            "rpc.service": _MPS_API,
            "rpc.method": method,
            "server.address": host,
            "http.request.method": "POST",
        }
        if port is not None:
            attributes["server.port"] = port
        with self._failing_span(f"{_MPS_API}/{method}", self._trace.SpanKind.CLIENT, attributes) as span:

            def answered(request_id: str) -> None:
                span.set_attributes({"aliyun.request_id": request_id, "http.response.status_code": _OK})

            yield answered

    def link_to_earlier(self, span: Span, earlier: str) -> None:
        """Link the span of a delivery to that of an earlier run of its job, given as by ``trace_parent``."""
        context = self._extract_w3c({"traceparent": earlier}, self._context.Context())
        linked = self._trace.get_current_span(context).get_span_context()
        if linked.is_valid:
            span.add_link(linked)

    def ended(self, span: Span, failure: tuple[Exception | str, str] | None, **attributes: str | int | None) -> None:
        """Record in a delivery's span how it ended; a ``failure`` is an exception or a label, and a sentence."""
        span.set_attributes({f"mns_consumer.{name}": value for name, value in attributes.items() if value is not None})
        if failure is not None:
            self._fail(span, *failure)

    def _fail(self, span: Span, failure: BaseException | str, text: str = "") -> None:
        # Not by record_exception, which knows no secrets.
        if isinstance(failure, str):
            name, said = failure, {"message": text}
        else:
            kind = type(failure)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            said = {"message": text_of(failure)}
            if failure.__traceback__ is not None:
                said["stacktrace"] = traceback_of(failure)
        event = {f"exception.{key}": SECRETS.mask(value) for key, value in said.items()}
        span.add_event("exception", {"exception.type": name, **event})
        span.set_attribute("error.type", name)
        span.set_status(self._trace.StatusCode.ERROR)

    def close(self, within_s: float) -> None:
        """Send what is left; blocks for at most that time."""
        self._spans.force_flush(int(within_s * 1000))
        self._meters.force_flush(int(within_s * 1000))
        self._spans.shutdown()
        self._meters.shutdown()

    @contextmanager
    def _failing_span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
        *,
        links: Sequence[Link] = (),
        parent: Context | None = None,
    ) -> Iterator[Span]:
        """A current span that fails with what its block raises, without the secrets in it."""
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                if isinstance(error, CloudError):
                    span.set_attributes(_answer(error))
                self._fail(span, error)
                raise

    def _operation(
        self, attributes: dict[str, str | int], count: int, seconds: float, links: Sequence[SpanContext]
    ) -> SpanContext:
        self._operation_s.record(seconds, attributes)
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{attributes['messaging.operation.name']} {attributes['messaging.destination.name']}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={**attributes, "messaging.batch.message_count": count},
            links=[self._trace.Link(link) for link in links],
            start_time=ended_ns - int(seconds * _NS),
        )
        if "error.type" in attributes:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended_ns)
        return span.get_span_context()


def trace_parent(span: Span | None) -> str | None:
    """The context of a span in the form of W3C's header ``traceparent``."""
    if span is None:
        return None
    ids = span.get_span_context()
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"


def open_traces(version: str, *, trusted: bool = False) -> Traces:
    """Export as OpenTelemetry's variables say; the arguments are those of ``Traces``.

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


def _answer(error: CloudError) -> dict[str, str | int]:
    """What is known of the answer to a call that failed."""
    found = {
        "aliyun.error_code": error.code,
        "aliyun.request_id": error.request_id,
        "http.response.status_code": error.status,
    }
    return {name: value for name, value in found.items() if value is not None}


def _attributes(queue: str, name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
