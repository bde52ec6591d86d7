"""The kind of each message, and the meaning of its state; an unknown one is no intermediate state."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from consumer.message.notification import Kind, Notification, Phase, decode

SAMPLES = Path(__file__).parent / "samples"


def read(document: JsonValue) -> Notification:
    """Decode a document that must be readable."""
    found = decode(json.dumps(document).encode())
    assert isinstance(found, Notification), found
    return found


@pytest.mark.parametrize(
    ("sample", "kind", "route", "job_id", "state", "phase"),
    [
        ("callback-Cover", Kind.IPRODUCTION, "Cover", "39f8e0bc005e4f309379701645f4abcd", "Success", "succeeded"),
        ("callback-VideoH2V", Kind.IPRODUCTION, "VideoH2V", "39f8e0bc005e4f309379701645f4abcd", "Success", "succeeded"),
        (
            "callback-AudioMixing",
            Kind.IPRODUCTION,
            "AudioMixing",
            "158688059d8443a68b78a65e55b3abcd",
            "Success",
            "succeeded",
        ),
        ("callback-fail", Kind.IPRODUCTION, "VideoClip", "b1946ac92492d2347c6235b4d2611184", "Fail", "failed"),
        (
            "callback-no-type",
            Kind.IPRODUCTION,
            "MusicSegmentDetect",
            "88c6ca184c0e432bbf5b665e2a15abcd",
            "Succes",
            "succeeded",
        ),
        (
            "mns-topic-envelope-json",
            Kind.IPRODUCTION,
            "Cover",
            "39f8e0bc005e4f309379701645f4abcd",
            "Success",
            "succeeded",
        ),
        (
            "other-transcode-dualcase",
            Kind.TRANSCODE,
            "Transcode",
            "0ceb045cd8df4db49f1c5bd4ace5abcd",
            "Success",
            "succeeded",
        ),
        ("other-snapshot-camel", Kind.SNAPSHOT, "Snapshot", "f4e1", "Fail", "failed"),
        ("other-analysis", Kind.ANALYSIS, "Analysis", "f4e2", "Success", "succeeded"),
        ("other-mediainfo", Kind.MEDIA_INFO, "MediaInfo", "f4e3", "Success", "succeeded"),
        ("other-smarttag", Kind.SMART_TAG, "smarttag", "f4e4", "Success", "succeeded"),
        ("other-workflow-start", Kind.MEDIA_WORKFLOW, "MediaWorkflow", "fa89", "Running", "intermediate"),
        ("other-workflow-report", Kind.MEDIA_WORKFLOW, "MediaWorkflow", "fa89", "Completed", "succeeded"),
        ("other-texttospeech", Kind.TEXT_TO_SPEECH, "TextToSpeech", "f4e5", "", "succeeded"),
        ("other-ims-event", Kind.IMS_EVENT, "ImsEvent", "f4e6", "Success", "succeeded"),
        ("other-vod-event", Kind.VOD_EVENT, "VodEvent", None, "fail", "failed"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True], ids=["raw", "base64"])
def test_each_documented_message(
    *, sample: str, encoded: bool, kind: Kind, route: str, job_id: str | None, state: str, phase: str
) -> None:
    """Every documented message is recognised by its fields, raw as well as base64."""
    body = (SAMPLES / f"{sample}.json").read_bytes()
    found = decode(base64.b64encode(body) if encoded else body)
    assert isinstance(found, Notification), found
    assert (found.kind, found.route, found.job_id, found.state, found.phase.value) == (
        kind,
        route,
        job_id,
        state,
        phase,
    )
    assert found.function == (route if kind is Kind.IPRODUCTION else None)


def test_failure_says_why_in_either_spelling() -> None:
    """The older kinds' ``code`` and ``msg`` are the code and the message."""
    found = decode((SAMPLES / "other-snapshot-camel.json").read_bytes())
    assert isinstance(found, Notification)
    assert (found.code, found.message, found.user_data) == ("InvalidFile", "no video track", "test")


def test_without_type_function_job_and_state_make_a_job() -> None:
    """The vendor's page prints one message without Type; fewer fields than these three are nothing known."""
    bare: dict[str, JsonValue] = {"FunctionName": "Cover", "JobId": "39f8", "State": "Success"}
    assert read(bare).kind is Kind.IPRODUCTION
    assert read({**bare, "Type": ""}).kind is Kind.IPRODUCTION
    assert read({**bare, "Type": None}).kind is Kind.IPRODUCTION
    assert read({"FunctionName": "Cover"}).kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("document", "route"),
    [
        ({}, "unknown"),
        ({"a": 1}, "unknown"),
        ({"Type": 5, "FunctionName": "Cover", "JobId": "1", "State": "Success"}, "unknown"),
        ({"Type": "Sparkle", "JobId": "1", "State": "Running"}, "Sparkle"),
        ({"Type": "Start"}, "Start"),
        ({"EventType": "X"}, "unknown"),
    ],
)
def test_what_is_not_recognised_is_readable_and_no_intermediate(document: JsonValue, route: str) -> None:
    """An unknown message keeps its Type as route and is never thrown away as intermediate."""
    found = read(document)
    assert (found.kind, found.route, found.phase) == (Kind.UNKNOWN, route, Phase.SUCCEEDED)


@pytest.mark.parametrize(
    ("document", "state", "phase"),
    [
        (
            {"Type": "Report", "MediaWorkflowExecution": {"RunId": "r", "State": "Running"}},
            "Running",
            Phase.INTERMEDIATE,
        ),
        ({"Type": "Report", "MediaWorkflowExecution": {"RunId": "r", "State": "Fail"}}, "Fail", Phase.FAILED),
        (
            {"Type": "Report", "RunId": "r", "State": "Success", "MediaWorkflowExecution": {}},
            "Success",
            Phase.SUCCEEDED,
        ),
        (
            {"Type": "Report", "RunId": "r", "State": "Completed", "MediaWorkflowExecution": 0},
            "Completed",
            Phase.SUCCEEDED,
        ),
        ({"Type": "MediaWorkflow", "RunId": "r", "State": "Completed"}, "Completed", Phase.SUCCEEDED),
        ({"Type": "Start", "RunId": "r", "MediaWorkflowExecution": {}}, "", Phase.INTERMEDIATE),
    ],
)
def test_workflows(document: JsonValue, state: str, phase: Phase) -> None:
    """A workflow's own state counts before that of the step that reports, and a Start is no end."""
    found = read(document)
    assert (found.kind, found.job_id, found.state, found.phase) == (Kind.MEDIA_WORKFLOW, "r", state, phase)


@pytest.mark.parametrize(
    ("body", "job_id", "state", "phase"),
    [
        ('{"JobId":"j","Status":"Fail"}', "j", "Fail", Phase.FAILED),
        ({"JobId": "j", "State": "Odd"}, "j", "Odd", Phase.SUCCEEDED),
        ({"Status": "Running"}, None, "Running", Phase.SUCCEEDED),
        ("not JSON", None, "", Phase.SUCCEEDED),
        (7, None, "", Phase.SUCCEEDED),
    ],
)
def test_events(body: JsonValue, job_id: str | None, state: str, phase: Phase) -> None:
    """An event's job and status are read from its MessageBody, whatever that is; none is thrown away."""
    found = read({"EventType": "ProduceMediaComplete", "MessageBody": body})
    assert (found.kind, found.job_id, found.state, found.phase) == (Kind.IMS_EVENT, job_id, state, phase)
