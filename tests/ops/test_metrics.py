"""Metrics: named by the conventions, bounded in their labels, cheap to update."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from consumer.errors import Fault
from consumer.job_state import CodeClass, JobState
from consumer.ops.metrics import (
    OTHER,
    PREFIX,
    DeleteResult,
    LetterHookResult,
    MessageState,
    Metrics,
    PollResult,
    QueryResult,
    ReloadResult,
    RenewalResult,
    RetryCause,
    SettledAs,
)
from consumer.policy import Reason, SubmissionState
from tests.untraced import untraced


def busy(functions: tuple[str, ...] = ("Cover",)) -> Metrics:
    """Metrics of which each was updated."""
    metrics = Metrics(functions, version="1.2.3")
    queue = metrics.queue("jobs")
    queue.received.inc(16)
    queue.in_flight.set(3)
    queue.slots.set(64)
    queue.stuck.set(1)
    queue.last_poll.set_to_current_time()
    queue.last_success.set_to_current_time()
    queue.settled_seconds.observe(3.0)
    queue.wait_seconds.observe(2.0)
    queue.set_messages(active=5, inactive=1, delayed=0)
    queue.set_submissions(dict.fromkeys(SubmissionState.open(), 1))
    for poll in (*PollResult, *Fault):
        queue.polls[poll].inc()
    for renewal in RenewalResult:
        queue.renewals[renewal].inc()
    for delete in DeleteResult:
        queue.deletes[delete].inc()
    for name in (*functions, "unheard of"):
        function = queue.function(name)
        function.seconds.observe(0.2)
        function.count_mps_job("Success", "Success")
        for outcome in SettledAs:
            function.jobs[outcome].inc()
        for cause in RetryCause:
            function.retries[cause].inc()
        for reason in Reason:
            function.dead_letters[reason].inc()
    for fault in (None, *Fault):
        metrics.api_call("BatchReceiveMessage", fault, 0.01)
    for hook in LetterHookResult:
        metrics.queue("jobs").letter_hooks[hook].inc()
    for query in QueryResult:
        metrics.result_queries[query].inc()
    for reload in ReloadResult:
        metrics.reloads[reload].inc()
    metrics.store_up.set(1)
    metrics.set_letters_waiting([("jobs", Reason.REJECTED, 2, 1_700_000_000.0)])
    metrics.log_lines_dropped.inc(2)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def test_counts() -> None:
    """A scrape has the values that were counted through the bound children."""
    metrics = busy()
    assert value(metrics, "messages_received_total", queue="jobs") == 16
    assert value(metrics, "jobs_total", queue="jobs", function="Cover", outcome="done") == 1
    assert value(metrics, "retries_total", queue="jobs", function="Cover", cause="asked") == 1
    assert value(metrics, "dead_letters_total", queue="jobs", function=OTHER, reason="unrouted") == 1
    assert value(metrics, "polls_total", queue="jobs", result="network") == 1
    assert value(metrics, "api_requests_total", operation="BatchReceiveMessage", result="ok") == 1
    assert value(metrics, "api_requests_total", operation="BatchReceiveMessage", result="throttled") == 1
    assert value(metrics, "api_request_duration_seconds_count", operation="BatchReceiveMessage") == 1 + len(Fault)
    assert value(metrics, "settled_seconds_sum", queue="jobs") == 3.0
    assert value(metrics, "in_flight", queue="jobs") == 3


def test_same_children() -> None:
    """A queue and a function are bound once, so that asking again costs a look-up."""
    metrics = Metrics(["Cover"])
    queue = metrics.queue("jobs")
    assert metrics.queue("jobs") is queue
    assert queue.function("Cover") is queue.function("Cover")
    assert queue.function("x") is queue.function("y")
    assert queue.function("Cover").jobs[SettledAs.DONE] is queue.function("Cover").jobs[SettledAs.DONE]


def test_first_events_show_as_a_rise() -> None:
    """The usual outcomes are exported as 0 from the start, so that a rate includes the first."""
    metrics = Metrics(["Cover"])
    metrics.queue("jobs").function("Cover")
    assert value(metrics, "jobs_total", queue="jobs", function="Cover", outcome="dead") == 0
    assert value(metrics, "polls_total", queue="jobs", result="messages") == 0
    assert value(metrics, "deletes_total", queue="jobs", result="failed") == 0
    assert value(metrics, "reloads_total", result="refused") == 0


def test_no_foreign_label_value() -> None:
    """A value that is not fixed for its label is a KeyError, never a new label value."""
    queue = Metrics(["Cover"]).queue("jobs")
    with pytest.raises(KeyError, match="known: deleted, failed, gone"):
        queue.deletes["whatever"].inc()


@given(st.lists(st.text(), max_size=30))
def test_labels_are_bounded(names: list[str]) -> None:
    """Only registered FunctionNames become label values, and only known states and classes of codes."""
    metrics = Metrics(["Cover", "*"])
    queue = metrics.queue("jobs")
    for name in names:
        queue.function(name).jobs[SettledAs.DEAD].inc()
        queue.function("Cover").count_mps_job(name, name)
    queue.names_in_flight = lambda: names
    body, _ = metrics.render()
    seen = set(re.findall(r'function="([^"]*)"', body.decode()))
    assert seen <= {"Cover", OTHER}
    assert set(re.findall(r'(?:code|state)="([^"]*)"', body.decode())) <= {*CodeClass, *JobState}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, "none"),
        ("Success", "success"),
        ("OutputNotWritten", "not_written"),
        ("InvalidParameter.NotFound", "invalid_parameter"),
        ("InvalidParameterX", "other"),
    ],
)
def test_codes_have_classes(code: str | None, expected: str) -> None:
    """A job counts under its state and the class of its code, by the part before the first dot."""
    metrics = Metrics(["Cover"])
    metrics.queue("jobs").function("Cover").count_mps_job("Fail", code)
    assert value(metrics, "mps_jobs_total", queue="jobs", function="Cover", state="Fail", code=expected) == 1


def test_unknown_counts_are_not_exported() -> None:
    """A count that MNS does not give any more is gone from the next scrape: an old one would pass for the present."""
    metrics = Metrics()
    queue = metrics.queue("jobs")
    queue.set_messages()
    queue.set_messages(active=5, delayed=0)
    assert [value(metrics, "queue_messages", queue="jobs", state=state) for state in MessageState] == [5, None, 0]
    queue.set_messages(delayed=1)
    assert [value(metrics, "queue_messages", queue="jobs", state=state) for state in MessageState] == [None, None, 1]


def test_in_flight_by_function() -> None:
    """Messages in flight count by function at each scrape; a function that had some before counts 0."""
    metrics = Metrics(["Cover", "VideoClip"])
    queue = metrics.queue("jobs")
    queue.function("VideoClip")
    queue.names_in_flight = lambda: ["Cover", "Cover", "unheard of"]
    counts = [value(metrics, "function_in_flight", queue="jobs", function=f) for f in ("Cover", "VideoClip", OTHER)]
    assert counts == [2, 0, 1]


def test_register_later() -> None:
    """A reload's new handlers get labels of their own; what was counted before stays."""
    metrics = Metrics(["Cover"])
    queue = metrics.queue("jobs")
    queue.function("VideoClip").jobs[SettledAs.DONE].inc()
    metrics.register(["VideoClip", "bad\ud800name"])
    queue.function("VideoClip").jobs[SettledAs.DONE].inc()
    assert value(metrics, "jobs_total", queue="jobs", function=OTHER, outcome="done") == 1
    assert value(metrics, "jobs_total", queue="jobs", function="VideoClip", outcome="done") == 1
    assert "bad\ud800name" not in metrics.functions
    metrics.render()


def test_catalogue_is_what_is_scraped() -> None:
    """The catalogue names exactly the program's metrics that a scrape shows, with their types, labels and help."""
    metrics = busy()
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    scraped = {family.name: family for family in parse_classic(body.decode()) if family.name.startswith(PREFIX)}
    listed = {info.name.removesuffix("_total"): info for info in metrics.catalogue}
    assert scraped.keys() == listed.keys()
    for name, info in listed.items():
        family = scraped[name]
        assert (family.type, family.documentation) == (info.type, info.help)
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        assert labels == set(info.labels), name


def test_conventions() -> None:
    """Counters end in _total and nothing else does; every metric has a help sentence."""
    for info in Metrics().catalogue:
        assert info.name.endswith("_total") == (info.type == "counter")
        assert info.help.endswith(".")
        assert re.fullmatch(r"mns_consumer_[a-z_]+", info.name)


def test_openmetrics_on_request() -> None:
    """A scraper that asks for OpenMetrics gets it, whole; any other header gets the classic text."""
    metrics = busy()
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert PREFIX + "jobs" in {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]  # it has no annotations
    assert metrics.render("nonsense")[1] == metrics.render(None)[1]


def test_the_process_is_there_too() -> None:
    """A scrape has the process's metrics and the versions, and no ``_created`` samples."""
    metrics = Metrics(version="1.2.3")
    metrics.queue("jobs")
    body = metrics.render()[0].decode()
    assert 'mns_consumer_build_info{python="3.' in body
    assert 'version="1.2.3"' in body
    assert "python_info" in body
    assert "_created" not in body


def test_registries_are_apart() -> None:
    """Two daemons in one process count apart."""
    one, other = Metrics(), Metrics()
    one.queue("jobs").received.inc()
    assert value(other, "messages_received_total", queue="jobs") is None


def test_letters_that_wait_stay_visible() -> None:
    """A group counts until it is gone, then 0; the oldest time of a queue is that of its oldest letter, or absent."""
    metrics = Metrics()
    metrics.set_letters_waiting(
        [("jobs", Reason.REJECTED, 2, 20.0), ("jobs", Reason.EXHAUSTED, 1, 10.0), ("jobs", Reason.REJECTED, 3, 30.0)]
    )
    assert value(metrics, "dead_letters_waiting", queue="jobs", reason="rejected") == 5
    assert value(metrics, "dead_letters_oldest_timestamp_seconds", queue="jobs") == 10
    metrics.set_letters_waiting([("films", Reason.REJECTED, 1, 40.0)])
    assert value(metrics, "dead_letters_waiting", queue="jobs", reason="rejected") == 0
    assert value(metrics, "dead_letters_waiting", queue="films", reason="rejected") == 1
    assert value(metrics, "dead_letters_oldest_timestamp_seconds", queue="jobs") is None


def test_queues_of_one_name_are_apart() -> None:
    """Queues of one name are called by their identities, in the daemon and in the store; others keep their name."""
    metrics = Metrics(queues=["1/east/jobs", "1/west/jobs", "1/east/films"])
    assert metrics.name_of("1/east/films") == "films"
    for identity in ("1/east/jobs", "1/west/jobs"):
        assert metrics.name_of(identity) == identity
    letters = [(f"{account}/east/{name}", Reason.REJECTED, 1, 10.0) for account in "12" for name in ("films", "clips")]
    metrics.set_letters_waiting([*letters, ("1/east/jobs", Reason.REJECTED, 1, 10.0), ("2/east/h", "rejected", 1, 1.0)])
    found = {name for name in metrics.render()[0].decode().split('"') if name.startswith(("1/", "2/", "films", "h"))}
    assert found == {"films", "2/east/films", "1/east/clips", "2/east/clips", "1/east/jobs", "h"}


def test_a_message_costs_little() -> None:
    """All the updates of a typical message take a few microseconds of processor time (bound: 40, for slow machines)."""
    queue = Metrics(["Cover"]).queue("jobs")

    def message() -> None:
        function = queue.function("Cover")
        function.jobs[SettledAs.DONE].inc()
        function.seconds.observe(0.012)
        function.count_mps_job("Success", "Success")
        queue.wait_seconds.observe(0.2)
        queue.settled_seconds.observe(0.3)
        queue.in_flight.inc()
        queue.in_flight.dec()
        queue.last_success.set_to_current_time()

    with untraced():
        best_s = min(timeit.repeat(message, timer=time.process_time, number=2_000, repeat=5)) / 2_000
    print(f"{best_s * 1e6:.2f} us a message")  # noqa: T201  # the figure is wanted in the test's output
    assert best_s < 40e-6


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
def test_promtool_agrees() -> None:
    """Promtool finds no fault in the program's metrics."""
    ours = b"".join(line for line in busy().render()[0].splitlines(keepends=True) if PREFIX.encode() in line)
    done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
