"""Spans and metrics of OpenTelemetry, as the real exporter sends them to a receiver in the test."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from consumer.errors import SettingsError
from consumer.functions.video_clip import VideoClipResult
from consumer.ops import traces
from consumer.ops.sanitize import SECRETS
from consumer.plugin.handler import Job, Reject
from consumer.sandbox import Sandbox
from consumer.sandbox.faults import Fault
from consumer.sandbox.queue import Message
from tests.engine.rig import QUEUE, Serve, body, handlers
from tests.process.rig import Process

FILM = "oss://b.oss-cn-hangzhou.aliyuncs.com/film.mp4"

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SENDER = "00f067aa0ba902b7"
HANDLERS = """
import structlog
from mns_consumer import Job, Reject, handler
from opentelemetry import baggage

log = structlog.stdlib.get_logger("handlers.mine")

@handler("Cover")
async def cover(job: Job) -> None:
    log.info("at work", baggage=dict(baggage.get_all()))

@handler("VideoClip")
async def clip(job: Job) -> None:
    raise Reject("not this one")

@handler("CaptionExtraction")
async def captions(job: Job) -> None:
    raise KeyError(f"{job.attempt} by the secret sandbox")
"""


class Receiver:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: dict[str, float] = {}
        self.service: set[str] = set()

    async def take(self, request: web.BaseRequest) -> web.Response:
        """Read one export."""
        data = await request.read()
        if request.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                self.service |= {attributes(resource.resource)["service.name"]}
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            for resource in ExportMetricsServiceRequest.FromString(data).resource_metrics:
                for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                    points = metric.histogram.data_points or metric.sum.data_points
                    self.metrics[metric.name] = sum(getattr(p, "count", 0) or getattr(p, "as_int", 0) for p in points)
        return web.Response()

    def named(self, name: str) -> list[Span]:
        """The spans of one name."""
        return [span for span in self.spans if span.name == name]


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    played = Receiver()
    runner = web.ServerRunner(web.Server(played.take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield played, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("place", "trusted"),
    [
        pytest.param("user_properties", False, id="user property"),
        pytest.param("system_properties", False, id="system property"),
        pytest.param("system_properties", True, id="system property, trusted"),
    ],
)
@pytest.mark.measured
async def test_a_message_s_life_is_traced(
    *, sandbox: Sandbox, tmp_path: Path, receiver: tuple[Receiver, str], place: str, trusted: bool
) -> None:
    """Receive, process and settle are spans that belong together; the sender's is linked to, or a parent if trusted."""
    played, url = receiver
    daemon = Process(
        *(sandbox, tmp_path, "otel=true", f"trust_trace_parent={str(trusted).lower()}"),
        handlers=HANDLERS,
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_SERVICE_NAME="films",
    )
    try:
        await daemon.logged('"event":"started"')
        message = Message(body("1" * 32).decode())
        carried = (("traceparent", f"00-{TRACE_ID}-{SENDER}-01", "STRING"), ("baggage", "tenant=7", "STRING"))
        setattr(message, place, carried)
        sandbox.account.ensure(QUEUE).queue.send(message, sandbox.clock.now_ms())
        sandbox.put(QUEUE, body("2" * 32, "VideoClip").decode())
        await daemon.logged("job done")
        await daemon.logged("moved to dead letters")
        assert await daemon.stop() == 0
    finally:
        daemon.kill()
    assert played.service == {"films"}
    lives = {attributes(span)["mns_consumer.function"]: span for span in played.named(f"process {QUEUE}")}
    good, bad = lives["Cover"], lives["VideoClip"]
    if trusted:
        assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE_ID, SENDER)
    else:
        assert good.trace_id.hex() != TRACE_ID
        assert not good.parent_span_id
    assert good.kind == Span.SPAN_KIND_CONSUMER
    assert attributes(good) | {"messaging.message.id": ""} == {
        "messaging.system": "alibaba_mns",
        "messaging.destination.name": QUEUE,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": "",
        "mns_consumer.job_id": "1" * 32,
        "mns_consumer.function": "Cover",
        "mns_consumer.attempt": 1,
        "mns_consumer.outcome": "done",
    }
    assert not bad.parent_span_id
    assert attributes(bad)["error.type"] == "consumer.plugin.handler.Reject"
    received = {span.span_id.hex() for span in played.named(f"receive {QUEUE}")}
    linked = {link.span_id.hex(): link.trace_id.hex() for life in (good, bad) for link in life.links}
    assert linked.keys() & received
    assert linked.keys() - received == (set() if trusted else {SENDER})
    assert trusted or linked[SENDER] == TRACE_ID
    settled = {link.span_id for span in played.named(f"delete {QUEUE}") for link in span.links}
    assert settled == {good.span_id, bad.span_id}
    assert played.metrics["messaging.client.consumed.messages"] == 2
    assert played.metrics["messaging.process.duration"] == 2
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    bound = [line for line in lines if line["event"] in {"at work", "job done"}]
    assert [(line["trace_id"], line["span_id"]) for line in bound] == [(good.trace_id.hex(), good.span_id.hex())] * 2
    (at_work,) = [line for line in lines if line["event"] == "at work"]
    assert at_work["baggage"] == ({"tenant": "7"} if trusted else {})


async def test_a_failed_span_says_what_was_raised(
    sandbox: Sandbox, tmp_path: Path, receiver: tuple[Receiver, str]
) -> None:
    """A failed attempt's span has the exception's type, text and traceback, with secrets masked."""
    played, url = receiver
    flags = ("otel=true", "max_failures=1")
    daemon = Process(sandbox, tmp_path, *flags, handlers=HANDLERS, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    try:
        sandbox.put(QUEUE, body("3" * 32, "CaptionExtraction").decode())
        await daemon.logged("moved to dead letters")
        assert await daemon.stop() == 0
    finally:
        daemon.kill()
    (span,) = played.named(f"process {QUEUE}")
    assert attributes(span)["error.type"] == "KeyError"
    (event,) = span.events
    said = attributes(event)
    assert (event.name, said["exception.type"]) == ("exception", "KeyError")
    assert said["exception.message"] == "'1 by the secret ***'"
    assert "in captions" in said["exception.stacktrace"]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What a daemon of this process with ``otel`` on exports."""
    exporter, spans = InMemorySpanExporter(), TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("consumer.app.open_traces", lambda *_, **__: traces.Traces(spans, MeterProvider(), "1"))
    return exporter


def ended(exported: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exported.get_finished_spans() if span.name == name]


def raised(span: ReadableSpan) -> Mapping[str, Any]:
    """What its one event ``exception`` says."""
    assert span.status.status_code is StatusCode.ERROR
    (event,) = span.events
    assert event.name == "exception"
    return dict(event.attributes or {})


@pytest.fixture
def secret() -> None:
    """``pass-word-7`` is a secret, also of the tests to come."""
    SECRETS.protect("pass-word-7")


@pytest.mark.usefixtures("secret")
async def test_a_query_of_mps_is_a_client_span(serve: Serve, exported: InMemorySpanExporter) -> None:
    """Each query is a client span within its delivery's, with MPS's host and request id, and its fault if it failed."""

    async def clip(job: Job[VideoClipResult, None]) -> None:
        pass

    async with serve(handlers(VideoClip=clip), otel=True) as daemon:
        daemon.sandbox.faults.add(
            Fault(
                kind="error", status=500, code="InternalError", message="of pass-word-7", operations=("query",), count=1
            )
        )
        params = '{"sandbox": {"result": {"Data": "[]"}}}'
        url = daemon.sandbox.notify_url(QUEUE)
        mps = daemon.app.lanes[0].mps
        await mps.submit(
            {"FunctionName": "VideoClip", "JobParams": params, "Input": FILM, "Output": FILM, "NotifyUrl": url}
        )
        await daemon.until(lambda: bool(ended(exported, f"process {QUEUE}")))
    (submitted,) = ended(exported, "Mts/SubmitIProductionJob")
    assert submitted.parent is None
    (life,) = ended(exported, f"process {QUEUE}")
    failed, *rest = ended(exported, "Mts/QueryIProductionJob")
    assert rest
    for span in (failed, *rest):
        assert span.kind is SpanKind.CLIENT
        assert span.parent == life.context
    found = dict(rest[-1].attributes or {})
    assert len(str(found.pop("aliyun.request_id"))) >= 30
    port = int(daemon.sandbox.url.rpartition(":")[2])
    called = {
        "rpc.system": "aliyun-api",
        "rpc.service": "Mts",
        "rpc.method": "QueryIProductionJob",
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.request.method": "POST",
    }
    assert found == called | {"http.response.status_code": 200}
    found = dict(failed.attributes or {})
    assert len(str(found.pop("aliyun.request_id"))) >= 30
    type_ = "consumer.errors.CloudError"
    assert found == called | {
        "http.response.status_code": 500,
        "aliyun.error_code": "InternalError",
        "error.type": type_,
    }
    fault = raised(failed)
    assert fault["exception.type"] == type_
    assert "InternalError: of *** (" in fault["exception.message"]


async def test_an_attempt_is_linked_to_the_one_before(serve: Serve, exported: InMemorySpanExporter) -> None:
    """The span of a later attempt links to the span of the attempt before it, that of a first attempt to no process."""

    async def cover(job: Job) -> None:
        if job.attempt < 3:
            raise ValueError(job.attempt)

    async with serve(handlers(Cover=cover), otel=True, retry_base_s=1, retry_cap_s=1) as daemon:
        daemon.sandbox.put(QUEUE, body().decode())
        await daemon.until(lambda: len(ended(exported, f"process {QUEUE}")) == 3)
    lives = sorted(ended(exported, f"process {QUEUE}"), key=lambda span: span.start_time or 0)
    linked = [{link.context.span_id for link in span.links} for span in lives]
    for number, ids in enumerate(linked):
        before = {lives[number - 1].context.span_id} if number else set()
        assert {span.context.span_id for span in lives} & ids == before


FAILED = [
    pytest.param("Cover", "KeyError", "exhausted", id="raised"),
    pytest.param("CaptionExtraction", "TimeoutError", "exhausted", id="timed out"),
    pytest.param("VideoClip", "consumer.plugin.handler.Reject", "rejected", id="rejected"),
    pytest.param("VideoDelogo", "unrouted", "unrouted", id="nothing was raised"),
]


@pytest.mark.parametrize(("function", "kind", "reason"), FAILED)
async def test_every_failed_delivery_says_why(
    serve: Serve, exported: InMemorySpanExporter, function: str, kind: str, reason: str
) -> None:
    """The span of a dead letter has one exception event: what was raised, the time limit, or else the reason."""

    async def raises(job: Job) -> None:
        raise KeyError(job.attempt)

    async def rejects(job: Job) -> None:
        raise Reject("not this one")

    async def hangs(job: Job) -> None:
        await anyio.sleep(60)

    registry = handlers(Cover=raises, CaptionExtraction=hangs, VideoClip=rejects)
    async with serve(registry, otel=True, max_failures=1, handler_timeout_s=0.2) as daemon:
        daemon.sandbox.put(QUEUE, body(function=function).decode())
        await daemon.until(lambda: bool(ended(exported, f"process {QUEUE}")))
    (span,) = ended(exported, f"process {QUEUE}")
    found = dict(span.attributes or {})
    assert (found["mns_consumer.outcome"], found["mns_consumer.reason"]) == ("dead", reason)
    assert raised(span)["exception.type"] == found["error.type"] == kind
    assert raised(span)["exception.message"]


@pytest.mark.usefixtures("secret")
def test_a_bug_s_traceback_has_no_secret() -> None:
    """An error that passes through a span is recorded once, with secrets masked."""
    exporter, spans = InMemorySpanExporter(), TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        pytest.raises(RuntimeError),
        traces.Traces(spans, MeterProvider(), "1").processing(QUEUE, "M", {}, None),
    ):
        raise RuntimeError("with pass-word-7")
    (span,) = exporter.get_finished_spans()
    assert raised(span)["exception.message"] == "with ***"
    assert "pass-word-7" not in str(raised(span))


MALFORMED = [
    {"traceparent": "00-zz-zz-01"},
    {"traceparent": f"00-{'0' * 32}-{SENDER}-01"},
    {"traceparent": f"ff-{TRACE_ID}-{SENDER}-01"},
    {"traceparent": "x" * 60_000},
    {"traceparent": f"00-{TRACE_ID}-{SENDER}-01", "tracestate": "no state\n" * 100},
    {"traceparent": f"00-{TRACE_ID}-{SENDER}-01", "tracestate": "a=1," * 40},
    {"traceparent": f"00-{TRACE_ID}-{SENDER}-01", "tracestate": "a=" + "x" * 60_000},
    {"baggage": "no baggage;;;=,," * 100},
    {"baggage": "x" * 60_000},
    {"baggage": "a=\u5c01"},
    {"baggage": ",".join(f"k{number}=v" for number in range(500))},
]


@pytest.mark.parametrize("trusted", [False, True])
def test_malformed_ones_are_passed_over(caplog: pytest.LogCaptureFixture, trusted: bool) -> None:  # noqa: FBT001
    """A malformed traceparent, tracestate or baggage causes no link, no error and no log line."""
    exporter = InMemorySpanExporter()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = traces.Traces(spans, MeterProvider(), "1", trusted=trusted)
    caplog.set_level(logging.WARNING)
    for carried in MALFORMED:
        with tracing.processing(QUEUE, "M", carried, None):
            pass
        (span,) = exporter.get_finished_spans()
        exporter.clear()
        valid = carried.get("traceparent", "").startswith(f"00-{TRACE_ID}")
        assert len(span.links) == (valid and not trusted)
        assert (span.parent is not None) == (valid and trusted)
    assert caplog.records == []
    tracing.close(1)


@pytest.mark.parametrize(("flags", "root", "sampled"), [("00", ALWAYS_ON, True), ("01", ALWAYS_OFF, False)])
def test_a_sender_does_not_decide_what_is_sampled(flags: str, root: Sampler, sampled: bool) -> None:  # noqa: FBT001
    """A sender that is only linked decides nothing about sampling, unlike a parent."""
    tracing = traces.Traces(TracerProvider(ParentBased(root)), MeterProvider(), "1")
    with tracing.processing(QUEUE, "M", {"traceparent": f"00-{TRACE_ID}-{SENDER}-{flags}"}, None) as span:
        assert span.is_recording() == sampled
    tracing.close(1)


async def test_a_receiver_that_is_gone_holds_up_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """While the receiver is gone, messages are handled and the stop keeps its deadline."""
    daemon = Process(
        *(sandbox, tmp_path, "otel=true", "stop_deadline_s=3"),
        handlers=HANDLERS,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    try:
        sandbox.put(QUEUE, body().decode())
        await daemon.logged("job done")
        with anyio.fail_after(8):
            assert await daemon.stop() == 0
    finally:
        daemon.kill()


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``otel`` on and OpenTelemetry not installed, one line says what to install."""
    for name in ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "opentelemetry.sdk.trace"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        SettingsError, match=r"otel: OpenTelemetry is not installed .* pip install 'mns-consumer\[otel\]'"
    ):
        traces.open_traces("1")


def test_off_it_loads_nothing() -> None:
    """A daemon without it imports nothing of OpenTelemetry."""
    ask = "import sys, consumer.daemon; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
