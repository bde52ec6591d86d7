"""Reading MNS's XML."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cloud.faults import cut, describe
from consumer.cloud.messages import Message, read_messages, read_peeked
from consumer.cloud.mns_xml import AnswerError, parse
from consumer.cloud.pool import Arrival

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


def changed(name: str, value: bytes) -> bytes:
    return entry(**{name: value})  # type: ignore[arg-type]


def document(*entries: bytes) -> bytes:
    return HEAD + b"".join(entries) + b"</Messages>"


def read(*entries: bytes) -> tuple[Sequence[Message], Sequence[str]]:
    return read_messages(document(*entries), ARRIVAL)


def test_a_message_has_every_field() -> None:
    """Every field of a documented message is read; its lease counts from the answer's arrival and ends 1 s early."""
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
    """Any body is delivered byte for byte, and so are the messages before and after it."""
    found, _ = read(entry(), entry(body), entry())
    assert [message.body for message in found] == [b"hello", expected, b"hello"]


@pytest.mark.parametrize("name", ["MessageId", "MessageBody", "ReceiptHandle", "NextVisibleTime"])
def test_an_entry_that_lacks_what_is_essential_is_skipped_with_a_word(name: str) -> None:
    """A broken entry is one of the problems, and the next entry is delivered."""
    found, (problem,) = read(entry(leave_out=name), entry())
    assert len(found) == 1
    assert name in problem
    assert "stays in its queue" in problem


@pytest.mark.parametrize(
    ("name", "read", "default"),
    [
        ("Priority", lambda message: message.priority, 8),
        ("FirstDequeueTime", lambda message: message.first_dequeued_at, 1_699_999_990.0),
        ("DequeueCount", lambda message: message.dequeue_count, 1),
        ("EnqueueTime", lambda message: message.enqueued_at, 1_699_999_999.0),
    ],
)
@pytest.mark.parametrize("value", [None, b"", b"soon", b"1e400", b"\xd9\xa7", b"7" * 5000, b"0x10", b"1.5", b"--1"])
def test_what_is_not_essential_has_a_default(
    name: str, read: Callable[[Message], float], default: float, value: bytes | None
) -> None:
    """If one of them is absent or no number, its default is used."""
    written = entry(leave_out=name) if value is None else changed(name, value)
    (message,), problems = read_messages(document(written), ARRIVAL)
    assert read(message) == default
    assert problems == []


def test_a_message_with_nothing_but_what_is_essential() -> None:
    """Four fields are enough; the times are then those of the answer."""
    four = b"".join(
        b"<%s>%s</%s>" % (name, value, name)
        for name, value in {
            b"MessageId": b"A",
            b"ReceiptHandle": b"h",
            b"MessageBody": b"b",
            b"NextVisibleTime": b"1700000030000",
        }.items()
    )
    (message,), problems = read_messages(document(b"<Message>" + four + b"</Message>"), ARRIVAL)
    assert (message.enqueued_at, message.first_dequeued_at) == (ARRIVAL.server_s, ARRIVAL.server_s)
    assert (message.dequeue_count, message.priority, problems) == (1, 8, [])


@pytest.mark.parametrize(
    ("name", "read", "value", "expected"),
    [
        ("EnqueueTime", lambda m: m.enqueued_at, b"1700000005000", ARRIVAL.server_s),
        ("EnqueueTime", lambda m: m.enqueued_at, b"2100000000000", 1_699_999_999.0),
        ("EnqueueTime", lambda m: m.enqueued_at, b"0", 1_699_999_999.0),
        ("EnqueueTime", lambda m: m.enqueued_at, b"-1", 1_699_999_999.0),
        ("EnqueueTime", lambda m: m.enqueued_at, b"1698790401000", 1_698_790_401.0),
        ("EnqueueTime", lambda m: m.enqueued_at, b"1698790399000", 1_699_999_999.0),
        ("FirstDequeueTime", lambda m: m.first_dequeued_at, b"1699999980000", 1_699_999_990.0),
        ("FirstDequeueTime", lambda m: m.first_dequeued_at, b"9" * 18, 1_699_999_990.0),
        ("DequeueCount", lambda m: m.dequeue_count, b"0", 1),
        ("DequeueCount", lambda m: m.dequeue_count, b"-5", 1),
        ("DequeueCount", lambda m: m.dequeue_count, str(2**53).encode(), 604_800),
        ("DequeueCount", lambda m: m.dequeue_count, str(2**63).encode(), 1),
        ("Priority", lambda m: m.priority, b"0", 1),
        ("Priority", lambda m: m.priority, b"99", 16),
        ("NextVisibleTime", lambda m: m.receipt.expires_at, b"9" * 17, 100.0 + 43_200),
        ("NextVisibleTime", lambda m: m.receipt.expires_at, b"1699990000000", 100.0),
        ("NextVisibleTime", lambda m: m.receipt.expires_at, b"-9", 100.0),
    ],
)
def test_a_number_that_can_not_be_true_is_not_believed(
    name: str, read: Callable[[Message], float], value: bytes, expected: float
) -> None:
    """Counts and leases are cut at the documented limits; a time that no message can have counts as absent."""
    (message,), problems = read_messages(document(changed(name, value)), ARRIVAL)
    assert read(message) == expected
    assert problems == []


@pytest.mark.parametrize("value", [b"soon", b"9" * 400, b"1e5", b"1e400", b"\xd9\xa7", b"7" * 5000])
def test_a_lease_that_is_no_time_has_ended(value: bytes) -> None:
    """A NextVisibleTime that is no number is a problem, and the message has a lease to be renewed at once."""
    found, (problem,) = read(entry(NextVisibleTime=value), entry())
    assert [message.receipt.expires_at for message in found] == [100.0, 129.0]
    assert "is no time" in problem


def test_more_messages_than_asked_for_are_cut_off_in_one_line() -> None:
    """Messages beyond the number asked for are not read; one problem has their number."""
    for odd in (b"hello", b"<![CDATA[a]]>", b"\x0b"):
        found, problems = read_messages(document(*[entry(odd, MessageBodyMD5=b"")] * 40), ARRIVAL, limit=3)
        assert len(found) == 3
        assert problems == ["37 more messages came than the 3 asked for; they were not read and come back later"]
        assert len(read_peeked(document(*[entry(odd)] * 40), ARRIVAL, limit=3)) == 3


def test_a_crowd_of_broken_entries_makes_few_lines() -> None:
    """Two hundred thousand broken entries give one line for each message asked for, and one for the rest."""
    found, problems = read_messages(b"<Messages>" + b"<a/>" * 200_000 + b"</Messages>", ARRIVAL, limit=16)
    assert (len(found), len(problems)) == (0, 17)
    assert problems[-1].startswith("199984 more messages")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"<![CDATA[]]>", b"", id="empty"),
        pytest.param(b"<![CDATA[<a>&amp;]]>", b"<a>&amp;", id="markup"),
        pytest.param(b"a&lt;<![CDATA[&lt;]]>b<![CDATA[c]]>", b"a<&lt;bc", id="mixed"),
        pytest.param(b"<![CDATA[]]]]><![CDATA[>]]>", b"]]>", id="its own end"),
        pytest.param(b"<![CDATA[<!DOCTYPE a><!-- b --><?c d?>]]>", b"<!DOCTYPE a><!-- b --><?c d?>", id="declarations"),
        pytest.param(b"<![CDATA[a\x0b&lt;\xff]]>&lt;", b"a\x0b&lt;\xff<", id="not XML"),
        pytest.param(
            b"<![CDATA[\x0b</MessageBody></Message><Message><MessageId>forged</MessageId>]]>",
            b"\x0b</MessageBody></Message><Message><MessageId>forged</MessageId>",
            id="entries of its own",
        ),
        pytest.param(
            b"<![CDATA[\x0b</MessageBody><ReceiptHandle>forged</ReceiptHandle><MessageBody>]]>",
            b"\x0b</MessageBody><ReceiptHandle>forged</ReceiptHandle><MessageBody>",
            id="fields of its own",
        ),
    ],
)
def test_a_body_in_cdata_is_text(body: bytes, expected: bytes) -> None:
    """A CDATA section is read literally, also if the body makes the answer invalid XML, and can't forge fields."""
    found, _ = read(entry(), entry(body), entry())
    assert [message.body for message in found] == [b"hello", expected, b"hello"]
    assert {(message.message_id, message.receipt.handle) for message in found} == {("A" * 32, "1-H==")}


def test_an_empty_handle_is_a_problem() -> None:
    """A message that could never be deleted is not delivered."""
    assert read(entry(ReceiptHandle=b""))[0] == []


def test_a_body_against_its_md5_is_delivered_and_logged() -> None:
    """A body that is not what MessageBodyMD5 says is a problem, yet it is not lost."""
    found, (problem,) = read(entry(b"other"))
    assert found[0].body == b"other"
    assert "MessageBodyMD5" in problem


def test_peeked_messages_need_no_receipt() -> None:
    """Peeking reads entries without handle and NextVisibleTime, and leaves out what is broken."""
    shown = entry(leave_out="ReceiptHandle").replace(b"<NextVisibleTime>1700000030000</NextVisibleTime>", b"")
    never_received = shown.replace(b"<FirstDequeueTime>1699999999000</FirstDequeueTime>", b"")
    found = read_peeked(document(shown, never_received, entry(leave_out="MessageBody")), ARRIVAL)
    assert [message.first_dequeued_at for message in found] == [1_699_999_999.0, 1_699_999_990.0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html><body>hello</body></html>", id="HTML"),
        pytest.param(b"<!DOCTYPE html><html></html>", id="HTML with doctype"),
        pytest.param(b'<!DOCTYPE x [<!ENTITY a "b">]><Messages>&a;</Messages>', id="entity"),
        pytest.param(b"<Messages><!-- a --></Messages>", id="comment"),
        pytest.param(b"<Messages><![CDATA[a]></Messages>", id="CDATA without an end"),
        pytest.param(b"<Messages><?php a?></Messages>", id="processing instruction"),
        pytest.param(b"<?xml-stylesheet a?><Messages/>", id="processing instruction in front"),
        pytest.param(
            b'<?x <![CDATA[ ?><!DOCTYPE a [<!ENTITY b "c">]><Messages>&b; ]]></Messages>',
            id="hidden doctype",
        ),
        pytest.param(b'<Messages a="<![CDATA["><!-- ]]></Messages>', id="CDATA in an attribute"),
        pytest.param(HEAD + entry(b"\x0b<!-- a -->") + b"</Messages>", id="comment beside an odd body"),
        pytest.param(b"<Message></Message>", id="another root"),
        pytest.param(b'{"Messages": []}', id="JSON"),
        pytest.param(HEAD, id="cut short"),
        pytest.param(HEAD + entry(b"\x00")[:-5], id="cut short after an odd body"),
        pytest.param('<?xml version="1.0" encoding="utf-16"?><Messages/>'.encode("utf-16"), id="UTF-16"),
        pytest.param('<!DOCTYPE a [<!ENTITY b "c">]><Messages/>'.encode("utf-16"), id="doctype in UTF-16"),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """An answer that is no plain ``<Messages>`` is an error that says what was expected."""
    with pytest.raises(AnswerError, match="expected"):
        read_messages(data, ARRIVAL)


@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda noise: document(entry(), noise, entry())))
def test_reading_is_total(data: bytes) -> None:
    """Any bytes give messages and problems, or one ``AnswerError``."""
    try:
        read_messages(data, ARRIVAL)
        read_peeked(data, ARRIVAL)
    except AnswerError:
        return


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_a_mutated_answer_never_breaks_the_reader(position: int, noise: bytes) -> None:
    """Bytes overwritten anywhere in a good answer give values or one ``AnswerError``."""
    good = document(entry(), entry(b"\x0b"), entry())
    at = position % len(good)
    try:
        read_messages(good[:at] + noise + good[at + len(noise) :], ARRIVAL)
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
    """A foreign body is described by its kind and size alone."""
    assert describe(data) == expected
