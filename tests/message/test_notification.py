"""Rules of ``decode`` by name: keys, states, UserData, inline results, and what is refused."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from consumer.message.notification import Kind, Notification, Phase, decode
from consumer.message.strict_json import Undecodable

JOB: dict[str, JsonValue] = {
    "Code": "Success",
    "FunctionName": "Cover",
    "JobId": "39f8e0bc005e4f309379701645f40000",
    "Message": "success",
    "State": "Success",
    "Type": "IProduction",
}


def read(document: JsonValue) -> Notification:
    """Decode a document that must be readable."""
    found = decode(json.dumps(document).encode())
    assert isinstance(found, Notification), found
    return found


def refused(document: JsonValue) -> Undecodable:
    """Decode a document that must not be readable."""
    found = decode(json.dumps(document).encode())
    assert isinstance(found, Undecodable), found
    return found


def test_a_job_s_message_in_full() -> None:
    """Every field of an IProduction message ends where it belongs."""
    document = {**JOB, "UserData": '{"order":7}'}
    assert read(document) == Notification(
        kind=Kind.IPRODUCTION,
        route="Cover",
        function="Cover",
        job_id="39f8e0bc005e4f309379701645f40000",
        state="Success",
        phase=Phase.SUCCEEDED,
        code="Success",
        message="success",
        user_data_text='{"order":7}',
        user_data={"order": 7},
        result_text=None,
        document=document,
    )


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title], ids=["lower", "upper", "title"])
def test_keys_in_any_case(spell: object) -> None:
    """Keys are read in any case; the document keeps their case."""
    assert callable(spell)
    document = {spell(key): value for key, value in JOB.items()}
    found = read(document)
    assert (found.route, found.job_id, found.phase) == ("Cover", JOB["JobId"], Phase.SUCCEEDED)
    assert found.document == document


def test_two_spellings_that_agree_are_one() -> None:
    """The document keeps the first of two spellings that say the same."""
    found = read({"userData": {"a": 1, "b": 2}, **JOB, "UserData": {"b": 2, "a": 1}, "jobid": JOB["JobId"]})
    assert found.document == {"userData": {"a": 1, "b": 2}, **JOB}


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"jobId": "another"}, id="two ids"),
        pytest.param({"state": "Fail"}, id="two states"),
        pytest.param({"UserData": "1", "userData": 1}, id="text and number"),
        pytest.param({"UserData": True, "userData": 1}, id="true and one"),
        pytest.param({"UserData": None, "userData": "x"}, id="null and text"),
        pytest.param({"RequestId": "a", "requestId": "b"}, id="an unused field"),
    ],
)
def test_two_spellings_that_differ_are_set_aside(extra: dict[str, JsonValue]) -> None:
    """Two spellings of one key with different values are undecodable."""
    assert refused({**JOB, **extra}).layer == "keys"


@pytest.mark.parametrize(
    ("extra", "route"),
    [
        pytest.param(b'"State":"Success"', "Cover", id="agree"),
        pytest.param(b'"State":"Fail"', None, id="differ"),
        pytest.param(b'"X":{"a":1,"a":2}', None, id="inside"),
    ],
)
def test_one_spelling_twice(extra: bytes, route: str | None) -> None:
    """A key that comes twice must say the same twice, at any depth."""
    found = decode(b'{"Type":"IProduction","FunctionName":"Cover","JobId":"1","State":"Success",' + extra + b"}")
    assert found.route == route if isinstance(found, Notification) else (route, found.layer) == (None, "json")


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("Success", Phase.SUCCEEDED),
        ("Succes", Phase.SUCCEEDED),
        ("success", Phase.SUCCEEDED),
        ("Fail", Phase.FAILED),
        ("Queuing", Phase.INTERMEDIATE),
        ("Analysing", Phase.INTERMEDIATE),
        ("Running", Phase.INTERMEDIATE),
    ],
)
@pytest.mark.parametrize("type_", ["IProduction", "Transcode", "smarttag"])
def test_known_states(type_: str, state: str, phase: Phase) -> None:
    """Each documented state of a job means one thing; the text stays as it came."""
    found = read({**JOB, "Type": type_, "State": state})
    assert (found.phase, found.state) == (phase, state)


@pytest.mark.parametrize("state", ["Completed", "Failed", "Done", "", None, 7, "S" * 60_000])
@pytest.mark.parametrize("type_", ["IProduction", "Transcode", "smarttag"])
def test_an_unknown_state_is_never_an_end(type_: str, state: JsonValue) -> None:
    """A job's state that no page documents sets the message aside, with a short reason."""
    found = refused({**JOB, "Type": type_, "State": state})
    assert found.layer == "state"
    assert len(found.reason) < 250


@pytest.mark.parametrize("missing", ["FunctionName", "JobId", "State"])
@pytest.mark.parametrize("how", ["absent", "null", "empty"])
def test_a_job_s_message_must_name_function_job_and_state(missing: str, how: str) -> None:
    """What a job can't be handled without is not guessed."""
    document = {key: value for key, value in JOB.items() if key != missing}
    if how != "absent":
        document[missing] = None if how == "null" else ""
    found = refused(document)
    assert found.layer == ("state" if missing == "State" else "keys")
    assert missing in found.reason


@pytest.mark.parametrize("wrong", [True, [], {"a": 1}], ids=["boolean", "array", "object"])
@pytest.mark.parametrize("key", ["FunctionName", "JobId", "State"])
def test_text_fields_are_text(key: str, wrong: JsonValue) -> None:
    """A container or a boolean in place of text is refused."""
    assert refused({**JOB, key: wrong}).layer == "keys"


@pytest.mark.parametrize("wrong", [42, 4.2, "../../pwned", "a/b", "a.b", "a b", "a\n", "\u526f", "x" * 65, "a|b"])
@pytest.mark.parametrize(
    "document",
    [JOB, {"Type": "Transcode", "State": "Success"}, {"EventType": "E", "MessageBody": "{}"}, {"Type": "New"}],
    ids=["a job", "another kind", "an event", "an unknown kind"],
)
def test_an_id_of_other_characters_is_refused(document: dict[str, JsonValue], wrong: JsonValue) -> None:
    """A JobId is text of 1 to 64 letters, digits, underscores and hyphens in every kind of message."""
    found = refused({**document, "JobId": wrong})
    assert found.layer == "keys"
    assert "jobid" in found.reason
    assert len(found.reason) < 250


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_run_id_of_other_characters_is_refused(where: str) -> None:
    """A workflow's RunId is checked as a JobId is, wherever it stands."""
    wrong: dict[str, JsonValue] = {"RunId": "../x"}
    outside, inside = (wrong, {}) if where == "outside" else ({}, wrong)
    found = refused({"Type": "Report", **outside, "MediaWorkflowExecution": {"State": "Completed", **inside}})
    assert "runid" in found.reason


@pytest.mark.parametrize("wrong", [7, "../Cover", "Co ver", "\u526f", "Cover\n", "7Cover", "_shared", "x" * 65])
def test_a_function_name_of_other_characters_is_refused(wrong: JsonValue) -> None:
    """A FunctionName begins with a letter and has letters, digits, underscores and hyphens, as MPS writes them."""
    found = refused({**JOB, "FunctionName": wrong})
    assert found.layer == "keys"
    assert "functionname" in found.reason


def test_an_event_is_read_inside_its_body() -> None:
    """Job, state, UserData, code and message of an event stand in its MessageBody; a Failed one is a failure."""
    inner: JsonValue = {
        "Status": "Failed",
        "JobId": "f4e6",
        "UserData": '{"a":1}',
        "ErrorCode": "Bad",
        "ErrorMessage": "no video",
    }
    wholes: list[JsonValue] = [inner, json.dumps(inner)]
    for inside in wholes:
        found = read({"EventType": "ProduceMediaComplete", "MessageBody": inside})
        assert (found.kind, found.job_id, found.state, found.phase) == (Kind.IMS_EVENT, "f4e6", "Failed", Phase.FAILED)
        assert (found.user_data, found.code, found.message) == ({"a": 1}, "Bad", "no video")
        assert found.event_type == "ProduceMediaComplete"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"Result": '{"Code":"Success"}'}, '{"Code":"Success"}'),
        ({"Result": {"Code": "Success"}}, '{"Code":"Success"}'),
        ({"Data": '{"result":[]}'}, '{"result":[]}'),
        ({"data": [1]}, "[1]"),
        ({"Result": None, "Data": "[2]"}, "[2]"),
        ({"Result": "", "Data": None}, None),
        ({}, None),
    ],
)
def test_a_result_that_came_along(extra: dict[str, JsonValue], text: str | None) -> None:
    """A Result or Data in the message is kept as text, so that MPS need not be asked for it."""
    assert read({**JOB, **extra}).result_text == text


@pytest.mark.parametrize(
    ("given", "text", "decoded"),
    [
        ("test", "test", "test"),
        ("null", None, None),
        ("", None, None),
        (None, None, None),
        ({"a": [1]}, '{"a":[1]}', {"a": [1]}),
        ([], "[]", []),
        (7, "7", "7"),
        (False, "false", "false"),
    ],
)
def test_user_data_of_any_type(given: JsonValue, text: str | None, decoded: JsonValue) -> None:
    """UserData that came as JSON instead of text keeps both its text and its value."""
    found = read({**JOB, "UserData": given})
    assert (found.user_data_text, found.user_data) == (text, decoded)


@pytest.mark.parametrize(("given", "text"), [(7, "7"), ({"a": 1}, '{"a":1}'), ("", ""), (None, None)])
def test_wording_of_any_type(given: JsonValue, text: str | None) -> None:
    """Code and Message are only passed on, so any type is kept."""
    found = read({**JOB, "Code": given, "Message": given})
    assert (found.code, found.message) == (text, text)


@pytest.mark.parametrize("scalar", [None, True, 7, "x", [JOB]], ids=["null", "boolean", "number", "string", "array"])
def test_only_an_object_is_a_message(scalar: JsonValue) -> None:
    """JSON that is no object is undecodable, and the error names its type."""
    assert refused(scalar).reason.startswith("expected a JSON object, came")


def test_an_undecodable_prints_as_one_line() -> None:
    """What is logged names layer, position and reason."""
    assert str(Undecodable("json", "no", 3)) == "json at 3: no"
    assert str(Undecodable("keys", "no")) == "keys: no"
