"""Rules of the ledger's keys by name, then that two messages never share one by accident."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.message.notification import MAX_KEY_CHARACTERS, Notification, _join, decode, ledger_key, message_key

QUEUE = "1234567890123456/cn-hangzhou/media-jobs"
JOB = {"Type": "IProduction", "FunctionName": "Cover", "JobId": "39f8", "State": "Success"}


def key_of(document: JsonValue, message_id: str = "M1") -> str:
    found = decode(json.dumps(document).encode())
    assert isinstance(found, Notification), found
    return ledger_key(QUEUE, found, message_id)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        pytest.param(JOB, f"{QUEUE}|IProduction|39f8", id="an ended job"),
        pytest.param({**JOB, "State": "Fail"}, f"{QUEUE}|IProduction|39f8", id="a failed job has one end too"),
        pytest.param({**JOB, "State": "Running"}, f"{QUEUE}|IProduction|39f8|Running", id="a job that goes on"),
        pytest.param(
            {"Type": "Transcode", "JobId": "1", "State": "Fail"},
            f"{QUEUE}|Transcode|1|Fail",
            id="other kinds: id and state",
        ),
        pytest.param(
            {"type": "Report", "MediaWorkflowExecution": {"RunId": "r", "State": "Completed"}},
            f"{QUEUE}|MediaWorkflow|r|Completed",
            id="a workflow: RunId and state",
        ),
        pytest.param({"jobId": "1", "result": "x"}, f"{QUEUE}|TextToSpeech|1|", id="a kind without state"),
        pytest.param({"Type": "Transcode", "State": "Fail"}, f"{QUEUE}|MessageId|M1", id="no id"),
        pytest.param(
            {"EventType": "E", "MessageBody": {"JobId": "1", "Status": "Failed"}},
            f"{QUEUE}|ImsEvent|1|E",
            id="an event of a job: id and EventType",
        ),
        pytest.param({"EventType": "E", "MessageBody": {}}, f"{QUEUE}|MessageId|M1", id="an event without a job"),
        pytest.param(
            {"EventType": "E", "MessageBody": {"JobId": "1", "Status": "Processing"}},
            f"{QUEUE}|MessageId|M1",
            id="an event that is no end",
        ),
        pytest.param(
            {"EventType": "E|%", "MessageBody": {"JobId": "1", "Status": "Success"}},
            f"{QUEUE}|ImsEvent|1|E%7C.%25.",
            id="marks in a part",
        ),
        pytest.param(
            {"EventType": "\u526f\u6b4c", "MessageBody": {"JobId": "1", "Status": "Success"}},
            f"{QUEUE}|ImsEvent|1|%526F.%6B4C.",
            id="other letters in a part",
        ),
        pytest.param(
            {"EventType": "E", "EventTime": "T", "JobId": "1"}, f"{QUEUE}|MessageId|M1", id="a VOD event: one has many"
        ),
        pytest.param({"Type": "New", "JobId": "1", "State": "Success"}, f"{QUEUE}|MessageId|M1", id="an unknown kind"),
    ],
)
def test_each_rule(document: JsonValue, key: str) -> None:
    """The key names a message's job, or its own id where the job is unknown."""
    assert key_of(document) == key


def test_two_queues_share_nothing() -> None:
    """The same job in two queues has two keys."""
    assert message_key("1/r/a", "M") != message_key("1/r/b", "M")


def test_an_unreadable_message_has_its_own_id() -> None:
    """A body that can't be read is known by MNS's id."""
    assert message_key(QUEUE, "6CC4D900") == f"{QUEUE}|MessageId|6CC4D900"


def test_a_long_part_is_bounded_and_still_its_own() -> None:
    """An EventType of 60 KB gives a short key that differs from its neighbour's, and can't be forged by a short one."""

    def key_of_event(event_type: str) -> str:
        return key_of({"EventType": event_type, "MessageBody": {"JobId": "1", "Status": "Success"}})

    long_key = key_of_event("x" * 60_000)
    assert len(long_key) <= MAX_KEY_CHARACTERS
    assert long_key != key_of_event("x" * 60_001)
    assert long_key != key_of_event(long_key.rpartition("|")[2])


PARTS = st.lists(
    st.text() | st.text("a|%.", max_size=8) | st.text("a|", min_size=230, max_size=250), min_size=1, max_size=4
)


@given(PARTS, PARTS)
@example(["a", "b"], ["a|b"])
@example(["a%7C.b"], ["a|b"])
def test_different_parts_make_different_keys(one: list[str], other: list[str]) -> None:
    """Keys are equal only when every part is; they are short, printable and storable."""
    key = _join(*one)
    assert (key == _join(*other)) == (one == other)
    assert len(key) <= MAX_KEY_CHARACTERS
    assert key.isascii()
    assert key.isprintable()
