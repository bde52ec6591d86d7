"""Rules of the two outer layers by name: base64 or raw, bare or inside a topic's envelope."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from consumer.message.notification import Notification, decode
from consumer.message.strict_json import Undecodable

SAMPLES = Path(__file__).parent / "samples"
JOB = (SAMPLES / "callback-AudioMixing.json").read_text()
CODED = base64.b64encode(JOB.encode()).decode()


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()


def json_envelope(message: object, md5sum: object = None) -> str:
    return json.dumps({"TopicOwner": "1", "TopicName": "t", "Message": message, "MessageMD5": md5sum})


def xml_envelope(message: str, extra: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">\n'
        f"<TopicName>t</TopicName><Message>{escape(message)}</Message>{extra}</Notification>"
    )


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(JOB, id="raw"),
        pytest.param(CODED, id="base64"),
        pytest.param(f" \r\n{JOB}\n", id="raw, white space around"),
        pytest.param(f"\n {CODED}\r\n", id="base64, white space around"),
        pytest.param(base64.encodebytes(JOB.encode()).decode(), id="base64, folded lines"),
        pytest.param("\ufeff" + JOB, id="raw, byte order mark"),
        pytest.param(coded("\ufeff" + JOB), id="base64 of a byte order mark"),
        pytest.param(json_envelope(JOB), id="JSON envelope"),
        pytest.param(json_envelope(JOB, md5(JOB)), id="JSON envelope, MD5"),
        pytest.param(json_envelope(JOB, md5(JOB).lower()), id="JSON envelope, MD5 in lower case"),
        pytest.param(json_envelope(JOB, ""), id="JSON envelope, empty MD5"),
        pytest.param(json_envelope(CODED, md5(CODED)), id="JSON envelope, base64 inside"),
        pytest.param(coded(json_envelope(JOB, md5(JOB))), id="base64 of a JSON envelope"),
        pytest.param(coded(json_envelope(CODED)), id="base64 of a JSON envelope with base64 inside"),
        pytest.param(json_envelope(JOB).replace("TopicName", "topicName"), id="any case"),
        pytest.param(xml_envelope(JOB), id="XML envelope"),
        pytest.param(xml_envelope(JOB, f"<MessageMD5>{md5(JOB)}</MessageMD5>"), id="XML envelope, MD5"),
        pytest.param(xml_envelope(CODED, f"<MessageMD5>{md5(CODED)}</MessageMD5>"), id="XML envelope, base64 inside"),
        pytest.param(xml_envelope(JOB, "<TopicName>t</TopicName>"), id="XML envelope, a field twice the same"),
        pytest.param(coded(xml_envelope(JOB)), id="base64 of an XML envelope"),
        pytest.param(
            xml_envelope(JOB).replace("Notification", "n:Notification").replace("xmlns", "xmlns:n"), id="XML, prefix"
        ),
    ],
)
def test_every_way_to_carry_a_message(body: str) -> None:
    """One message reads the same whichever way it was carried."""
    assert decode(body.encode()) == decode(JOB.encode())
    assert isinstance(decode(body.encode()), Notification)


def test_line_ends_that_xml_changed_are_no_damage() -> None:
    """A message with CR LF arrives through XML with LF, and its MD5 was made before."""
    message = JOB.strip().replace(",", ",\r\n")
    assert isinstance(decode(xml_envelope(message, f"<MessageMD5>{md5(message)}</MessageMD5>").encode()), Notification)


@pytest.mark.parametrize(
    ("body", "layer", "position", "reason"),
    [
        pytest.param(b"", "body", None, "empty", id="nothing"),
        pytest.param(b" \r\n\t", "body", None, "empty", id="white space"),
        pytest.param(b'{"a":"\xff"}', "body", 6, "0xff", id="not UTF-8"),
        pytest.param(JOB.encode("utf-16"), "body", 0, "UTF-16", id="UTF-16"),
        pytest.param(JOB.encode("utf-16-le"), "json", 1, "'\\x00'", id="UTF-16 without its mark"),
        pytest.param(b"plain words", "json", 0, "'p'", id="words"),
        pytest.param(b"hello123", "json", 0, "also valid base64", id="base64 by chance"),
        pytest.param(b"1234", "json", 0, "a number", id="a number that is base64 by chance"),
        pytest.param(b"null", "json", 0, "null", id="null, which is base64 by chance"),
        pytest.param(coded("hello").encode(), "json", 0, "the base64 holds", id="base64 of words"),
        pytest.param(coded(" ").encode(), "json", 0, "empty body", id="base64 of nothing"),
        pytest.param(CODED[:-2].encode(), "json", 0, "'e'", id="base64 without its padding"),
        pytest.param(CODED[:-1].encode() + b"!", "json", 0, "'e'", id="base64 with another character"),
        pytest.param(coded(CODED).encode(), "json", 0, "the base64 holds", id="base64 twice"),
        pytest.param(base64.urlsafe_b64encode(b"\xff\xef" * 9), "json", 0, "'_'", id="base64 of URLs"),
        pytest.param(json_envelope(JOB, "0" * 32).encode(), "envelope", None, "MessageMD5", id="wrong MD5"),
        pytest.param(json_envelope(CODED, md5(JOB)).encode(), "envelope", None, "MessageMD5", id="MD5 of the decoded"),
        pytest.param(json_envelope(JOB, ["x"]).encode(), "keys", None, "messagemd5", id="MD5 is no text"),
        pytest.param(json_envelope({"a": 1}).encode(), "envelope", None, "an object", id="Message is no text"),
        pytest.param(b'{"TopicName":"t","SubscriptionName":"s"}', "envelope", None, "none", id="no Message"),
        pytest.param(json_envelope('{"a"').encode(), "envelope.json", 4, "the end", id="broken inside"),
        pytest.param(json_envelope("").encode(), "envelope.body", None, "empty", id="empty inside"),
        pytest.param(json_envelope('{"a":1,"A":2}').encode(), "envelope.keys", None, "'A'", id="contradiction inside"),
        pytest.param(json_envelope(json_envelope(JOB)).encode(), "envelope", None, "another", id="JSON in JSON"),
        pytest.param(json_envelope(xml_envelope(JOB)).encode(), "envelope", None, "another", id="XML in JSON"),
        pytest.param(xml_envelope(json_envelope(JOB)).encode(), "envelope", None, "another", id="JSON in XML"),
        pytest.param(
            xml_envelope(JOB, f"<MessageMD5>{md5('x')}</MessageMD5>").encode(),
            "envelope",
            None,
            "MD5",
            id="XML, wrong MD5",
        ),
        pytest.param(xml_envelope(JOB, "<TopicName>u</TopicName>").encode(), "xml", 321, "twice", id="XML, two topics"),
        pytest.param(xml_envelope(JOB, "<a><b/></a>").encode(), "xml", 312, "an element", id="XML, nested"),
        pytest.param(b"<Error/>", "xml", 0, "element 'Notification'", id="another root"),
        pytest.param(b"<Notification/>", "envelope", None, "TopicName", id="XML without fields"),
        pytest.param(b"<Notification><Message>x", "xml", 24, "no element", id="XML, cut"),
        pytest.param(b"<Notification>&bomb;</Notification>", "xml", 14, "undefined entity", id="unknown entity"),
        pytest.param(
            (SAMPLES / "mns-topic-envelope-xml.xml").read_bytes(),
            "envelope.json",
            1,
            "'1'",
            id="the vendor's XML sample",
        ),
    ],
)
def test_what_is_refused(body: bytes, layer: str, position: int | None, reason: str) -> None:
    """Each fault names its layer, its position where there is one, and what came."""
    found = decode(body)
    assert isinstance(found, Undecodable), found
    assert (found.layer, found.position) == (layer, position), found
    assert reason in found.reason


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE n [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><Notification><TopicName>t</TopicName><Message>&i;</Message></Notification>"
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="a billion laughs"),
        pytest.param('<!DOCTYPE n SYSTEM "file:///etc/passwd"><Notification/>', id="an outside doctype"),
        pytest.param("<!DOCTYPE Notification><Notification/>", id="an empty doctype"),
    ],
)
@pytest.mark.parametrize("carry", [str, coded], ids=["raw", "base64"])
def test_a_doctype_is_refused_before_it_grows(text: str, carry: object) -> None:
    """No entity is ever expanded: the doctype itself stops the reading."""
    assert callable(carry)
    found = decode(carry(text).encode())
    assert isinstance(found, Undecodable)
    assert (found.layer, found.reason.removesuffix(" (in the text that the base64 holds)")) == (
        "xml",
        "expected no doctype",
    )
