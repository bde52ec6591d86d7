"""Any bytes give one value: properties of ``decode`` over random, mutated, deep and large bodies."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.message.notification import MAX_KEY_CHARACTERS, Notification, decode, ledger_key
from consumer.message.result import read_result
from consumer.message.strict_json import Undecodable

BODIES = [path.read_bytes() for path in sorted((Path(__file__).parent / "samples").iterdir())]
MAX_BODY_BYTES = 65_536


def check(body: bytes) -> None:
    """Decode, and check the value's types and ranges that the rest of the program relies on."""
    found = decode(body)
    if isinstance(found, Undecodable):
        assert found.layer
        assert found.reason
        assert len(str(found)) < 600
        assert str(found).isprintable()
        assert found.position is None or 0 <= found.position <= len(body)
        return
    assert isinstance(found, Notification)
    assert found.route
    for value in (found.document, found.user_data):
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        assert "\\u0000" not in written.replace("\\\\", "")
        written.encode()
    assert len(ledger_key("1/r/q", found, "M")) <= MAX_KEY_CHARACTERS
    read_result(found.result_text, None)


@given(st.binary())
def test_random_bytes(body: bytes) -> None:
    """Random bytes, as they are and as base64, give a value."""
    check(body)
    check(base64.b64encode(body))


@given(st.sampled_from(BODIES), st.data())
@settings(max_examples=100)
def test_mutated_samples(body: bytes, data: st.DataObject) -> None:
    """Samples that were cut, overwritten or doubled somewhere give a value, whichever way they are carried."""
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 20)))
        piece = data.draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"\\", b"NaN", b"\\ud800", b"\\u0000", body[start:end] * 2])
        )
        body = body[:start] + piece + body[end:]
    check(body)
    check(base64.b64encode(body))
    text = body.decode("utf-8", "replace")
    check(json.dumps({"TopicName": "t", "Message": text}).encode())


KEYS = st.sampled_from(
    [
        "Type",
        "type",
        "JobId",
        "jobId",
        "State",
        "state",
        "FunctionName",
        "UserData",
        "userData",
        "Code",
        "Message",
        "Msg",
        "Result",
        "Data",
        "result",
        "EventType",
        "EventTime",
        "MessageBody",
        "Status",
        "MediaWorkflowExecution",
        "RunId",
        "TopicName",
        "MessageMD5",
    ]
)
WORDS = st.sampled_from(
    [
        "IProduction",
        "Transcode",
        "MediaWorkflow",
        "Start",
        "Report",
        "TextToSpeech",
        "Success",
        "Succes",
        "Fail",
        "Running",
        "Cover",
        "{}",
    ]
)
FIELD_VALUES = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(st.tuples(KEYS, FIELD_VALUES), max_size=12))
@settings(max_examples=100)
@example([("EventType", "x"), ("MessageBody", {"JobId": True})])
@example([("MediaWorkflowExecution", {"RunId": "a", "runid": "b"})])
def test_any_fields(pairs: list[tuple[str, object]]) -> None:
    """Any of the known fields with any value, keys doubled and in two cases, give a value."""
    body = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs) + "}"
    check(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\0" * MAX_BODY_BYTES, id="zeros"),
        pytest.param(b"A" * MAX_BODY_BYTES, id="base64 of zeros"),
        pytest.param(b"\n" * MAX_BODY_BYTES, id="line ends"),
        pytest.param(b"[" * MAX_BODY_BYTES, id="open arrays"),
        pytest.param(b'{"a":' * 13_107, id="open objects"),
        pytest.param(b"[" * 32_768 + b"]" * 32_768, id="arrays"),
        pytest.param(b'{"UserData":"' + b"[" * 32_000 + b"]" * 32_000 + b'"}', id="deep UserData"),
        pytest.param(
            b'{"Type":"IProduction","FunctionName":"' + b"F" * 65_000 + b'","JobId":"1","State":"Success"}',
            id="a long name",
        ),
        pytest.param(b'{"' + b'a":1,"' * 10_900 + b'":1}', id="one key ten thousand times"),
        pytest.param(b'{"a":' + b"1" * 65_000 + b"}", id="a long integer"),
        pytest.param(b'{"a":1e' + b"9" * 65_000 + b"}", id="a long exponent"),
        pytest.param(b'"' + b'\\"' * 32_000, id="an open string"),
        pytest.param(b"<a>" * 21_845, id="open elements"),
        pytest.param(b"<Notification>" + b"<a>" * 21_000, id="open elements in the root"),
        pytest.param(b"<Notification " + b"a='1' " * 10_000 + b"/>", id="many attributes"),
        pytest.param(b"<" * MAX_BODY_BYTES, id="angle brackets"),
        pytest.param(b"<!DOCTYPE a [" + b"<!ENTITY a 'b'>" * 4_000, id="many entities"),
        pytest.param(("\ud7ff" * 21_845).encode(), id="three-byte characters"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True], ids=["raw", "base64"])
def test_hostile_bodies_of_64_kb(*, body: bytes, encoded: bool) -> None:
    """The largest bodies that MNS carries give a value in well under a second, however they are made."""
    begun = time.process_time()
    check(base64.b64encode(body) if encoded else body)
    assert time.process_time() - begun < 1


def test_many_bodies_in_one_process_leave_nothing_behind() -> None:
    """Reading is pure: the same body gives equal values, not shared ones."""
    for body in BODIES:
        first, second = decode(body), decode(body)
        assert str(first) == str(second)
        if isinstance(first, Notification) and isinstance(second, Notification):
            assert first == second
            assert first.document is not second.document
