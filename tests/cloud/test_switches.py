"""Each trick for speed has a switch; with it off, the plain way does the same work."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.cloud import mns, mns_xml
from consumer.cloud.messages import read_messages
from consumer.cloud.pool import Arrival
from consumer.message import strict_json

MESSAGES = (
    b'<Messages xmlns="http://mns.aliyuncs.com/doc/v1"><Message><MessageId>A</MessageId><MessageBody>b</MessageBody>'
    b"<ReceiptHandle>1-H</ReceiptHandle><NextVisibleTime>1700000030000</NextVisibleTime></Message></Messages>"
)


def unused(*_: object, **__: object) -> Any:
    """Stand for a trick that is switched off."""
    raise AssertionError("the trick was used")


def test_messages_are_read_without_the_flat_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``FLAT_READER`` off, expat reads every list of messages."""
    monkeypatch.setattr(mns_xml, "FLAT_READER", False)
    monkeypatch.setattr(mns_xml, "flat_messages", unused)
    (message,), problems = read_messages(MESSAGES, Arrival(0.0, 1_700_000_000.0))
    assert (message.message_id, message.body, problems) == ("A", b"b", [])


async def test_messages_are_deleted_without_an_encoder_of_our_own(
    monkeypatch: pytest.MonkeyPatch, start: Any, mns_reply: Any
) -> None:
    """With ``OWN_DELETE_ENCODER`` off, the SDK writes the body of a batch delete."""
    monkeypatch.setattr(mns, "OWN_DELETE_ENCODER", False)
    monkeypatch.setattr(mns, "handles_xml", unused)
    talk = await start(mns_reply(204))
    assert await talk.queue.delete(["1-H"]) == ()
    assert b"<ReceiptHandle>1-H</ReceiptHandle>" in talk.peer.asked[0].body


def test_json_is_parsed_without_counting_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``COUNTS_COLONS`` off, the standard library parses every text."""
    monkeypatch.setattr(strict_json, "COUNTS_COLONS", False)
    monkeypatch.setattr(strict_json, "from_json", unused)
    assert strict_json.parse('{"a":1}') == {"a": 1}
