"""Reading MNS's XML."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cloud.answer import Arrival, messages, peeked
from consumer.cloud.messages import Message
from consumer.cloud.plain_xml import AnswerError, parse
from consumer.cloud.wording import cut, describe

ARRIVAL = Arrival(monotonic=100.0, server_s=1_700_000_000.0)
HEAD = b'<?xml version="1.0" ?>\n<Messages xmlns="http://mns.aliyuncs.com/doc/v1">'


def entry(body: bytes = b"hello", *, leave_out: str = "", extra: bytes = b"", **changed: bytes) -> bytes:
    fields = {
        "MessageId": b"A" * 32,
        "MessageBodyMD5": hashlib.md5(b"hello", usedforsecurity=False).hexdigest().upper().encode(),
        "MessageBody": body,
        "ReceiptHandle": b"1-H==",
        "EnqueueTime": b"1699999990000",
        "FirstDequeueTime": b"1699999999000",
        "NextVisibleTime": b"1700000030000",
        "DequeueCount": b"2",
        "Priority": b"8",
    } | changed
    inner = b"".join(b"<%s>%s</%s>" % (k.encode(), v, k.encode()) for k, v in fields.items() if k != leave_out)
    return b"<Message>" + inner + extra + b"</Message>"


def document(*entries: bytes) -> bytes:
    return HEAD + b"".join(entries) + b"</Messages>"


def read(*entries: bytes) -> tuple[Sequence[Message], Sequence[str]]:
    return messages(document(*entries), ARRIVAL)


def test_a_message_has_every_field() -> None:
    """A documented message is read whole, its lease counted from the answer's arrival, 1 s early."""
    properties = (
        b"<MessageGroupId>g</MessageGroupId>"
        b"<SystemProperties><SystemPropertyValue><Name>traceparent</Name><Value>00-1</Value><Type>STRING</Type>"
        b"</SystemPropertyValue></SystemProperties>"
        b"<UserProperties><PropertyValue><Name>k</Name><Value>v</Value><Type>STRING</Type></PropertyValue>"
        b"<PropertyValue><Value>nameless</Value></PropertyValue></UserProperties>"
    )
    (message,), problems = read(entry(extra=properties))
    assert message.message_id == "A" * 32
    assert message.body == b"hello"
    assert message.receipt.handle == "1-H=="
    assert message.receipt.expires_at == 100.0 + 29.0
    assert (message.enqueued_at, message.first_dequeued_at) == (1_699_999_990.0, 1_699_999_999.0)
    assert (message.dequeue_count, message.priority, message.group_id) == (2, 8, "g")
    assert message.user_properties == {"k": "v"}
    assert message.system_properties == {"traceparent": "00-1"}
    assert problems == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"", b"", id="empty"),
        pytest.param(b"&lt;a&gt; &amp;&quot;&apos;", b"<a> &\"'", id="escaped markup"),
        pytest.param(b"\xe4\xb8\xad\xf0\x9f\x98\x80", "中😀".encode(), id="beyond ASCII"),
        pytest.param(b"a&#13;&#10;b", b"a\r\nb", id="escaped line ends"),
        pytest.param(b"a\x0bb\x00&amp;", b"a\x0bb\x00&", id="raw control characters"),
        pytest.param(b"a&#11;b&#x1f;", b"a\x0bb\x1f", id="referred control characters"),
        pytest.param(b"\xff\xfe &lt;", b"\xff\xfe <", id="not UTF-8"),
        pytest.param(b"\x01&bogus; &#xD800; &#9999999;", b"\x01&bogus; &#xD800; &#9999999;", id="no such reference"),
    ],
)
def test_an_odd_body_is_delivered_and_fails_no_other(body: bytes, expected: bytes) -> None:
    """Whatever the body, it arrives byte for byte, between two neighbours that arrive too."""
    found, _ = read(entry(), entry(body), entry())
    assert [message.body for message in found] == [b"hello", expected, b"hello"]


@pytest.mark.parametrize(
    "name", ["MessageId", "MessageBody", "ReceiptHandle", "EnqueueTime", "NextVisibleTime", "DequeueCount"]
)
def test_an_entry_that_lacks_a_field_is_skipped_with_a_word(name: str) -> None:
    """A broken entry is named among the problems, and its neighbour is delivered."""
    found, (problem,) = read(entry(leave_out=name), entry())
    assert len(found) == 1
    assert name in problem
    assert "stays in its queue" in problem


@pytest.mark.parametrize("value", [b"soon", b"", b"9" * 400, b"1e5"])
def test_a_time_that_is_no_time_is_a_problem(value: bytes) -> None:
    """A NextVisibleTime that is no number, or beyond any clock, skips its entry only."""
    found, problems = read(entry(NextVisibleTime=value), entry())
    assert (len(found), len(problems)) == (1, 1)


def test_an_empty_handle_is_a_problem() -> None:
    """A message that could never be deleted is not delivered."""
    assert read(entry(ReceiptHandle=b""))[0] == []


def test_a_body_against_its_md5_is_delivered_and_told() -> None:
    """A body that is not what MessageBodyMD5 says is a problem, yet it is not lost."""
    found, (problem,) = read(entry(b"other"))
    assert found[0].body == b"other"
    assert "MessageBodyMD5" in problem


def test_peeked_messages_need_no_receipt() -> None:
    """Peeking reads entries without handle and NextVisibleTime, and leaves out what is broken."""
    shown = entry(leave_out="ReceiptHandle").replace(b"<NextVisibleTime>1700000030000</NextVisibleTime>", b"")
    never_received = shown.replace(b"<FirstDequeueTime>1699999999000</FirstDequeueTime>", b"")
    found = peeked(document(shown, never_received, entry(leave_out="Priority")))
    assert [message.first_dequeued_at for message in found] == [1_699_999_999.0, 1_699_999_990.0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html><body>hello</body></html>", id="HTML"),
        pytest.param(b"<!DOCTYPE html><html></html>", id="HTML with doctype"),
        pytest.param(b'<!DOCTYPE x [<!ENTITY a "b">]><Messages>&a;</Messages>', id="entity"),
        pytest.param(b"<Messages><!-- a --></Messages>", id="comment"),
        pytest.param(b"<Messages><![CDATA[a]]></Messages>", id="CDATA"),
        pytest.param(b"<Message></Message>", id="another root"),
        pytest.param(b'{"Messages": []}', id="JSON"),
        pytest.param(HEAD, id="cut short"),
        pytest.param(HEAD + entry(b"\x00")[:-5], id="cut short after an odd body"),
        pytest.param('<?xml version="1.0" encoding="utf-16"?><Messages/>'.encode("utf-16"), id="UTF-16"),
        pytest.param('<!DOCTYPE a [<!ENTITY b "c">]><Messages/>'.encode("utf-16"), id="doctype in UTF-16"),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """Anything but a plain ``<Messages>`` is an error that says what was expected."""
    with pytest.raises(AnswerError, match="expected"):
        messages(data, ARRIVAL)


@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda noise: document(entry(), noise, entry())))
def test_reading_is_total(data: bytes) -> None:
    """Any bytes give messages and problems, or one ``AnswerError``."""
    try:
        messages(data, ARRIVAL)
        peeked(data)
    except AnswerError:
        return


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_a_mutated_answer_never_breaks_the_reader(position: int, noise: bytes) -> None:
    """Bytes overwritten anywhere in a good answer give values or one ``AnswerError``."""
    good = document(entry(), entry(b"\x0b"), entry())
    at = position % len(good)
    try:
        messages(good[:at] + noise + good[at + len(noise) :], ARRIVAL)
    except AnswerError:
        return


@given(st.text(max_size=300))
def test_any_text_arrives_as_it_is(text: str) -> None:
    """A body written by the plainest escaping comes back byte for byte, controls included."""
    body = text.encode(errors="replace")
    written = body.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;").replace(b"\r", b"&#13;")
    found, _ = read(entry(written))
    assert found[0].body == body


def test_parsing_says_where_it_gave_up() -> None:
    """An error names the place in the XML, and shows none of its text."""
    with pytest.raises(AnswerError, match="line 1") as caught:
        parse(b"<a>hush-hush</b>")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain", "plain", id="short"),
        pytest.param("a\n\tb\x1b[31m", "a b [31m", id="control characters"),
        pytest.param("x" * 300, "x" * 200 + "...", id="long"),
        pytest.param("x" * 10 + " " * 1000, "x" * 10 + "...", id="long and blank"),
    ],
)
def test_foreign_text_is_cut(text: str, expected: str) -> None:
    """Foreign text becomes one short printable line."""
    assert cut(text) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b" \n", "an empty body"), (b"[1]", "JSON of 3 bytes"), (b"<HTML>", "an HTML page of 6 bytes"), (b"x", "1 bytes")],
)
def test_foreign_bodies_are_described_not_shown(data: bytes, expected: str) -> None:
    """A foreign body is told by its kind and size alone."""
    assert describe(data) == expected
