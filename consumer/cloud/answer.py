"""Read the messages in an answer, strictly where it decides something and patiently where a body is odd.

A body with characters that XML forbids would spoil the fifteen beside it. So where expat gives up on a
``<Messages>`` answer, its entries are cut apart and read one by one, and only the broken ones are read field
by field, bytes kept as they came: such a message is still delivered, decoded or set aside like any other.

Elsewhere: what is XML at all (``plain_xml``), its common case at a third of the cost (``flat_xml``), what the values
mean (``messages``), which answer is a success (``mns_call``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from consumer.cloud.flat_xml import flat_messages
from consumer.cloud.messages import Message, Peeked, Receipt
from consumer.cloud.plain_xml import AnswerError, fields, local_name, parse
from consumer.cloud.wording import cut

_MS: Final = 1000.0

_ENTRY: Final = re.compile(rb"<Message>(.*?)</Message>", re.DOTALL)
_LIST: Final = re.compile(rb"\A\s*(?:<\?xml[^>]*\?>)?\s*<Messages(?:\s[^<>]*)?>(.*)</Messages>\s*\Z", re.DOTALL)
_FIELD: Final = re.compile(rb"<([A-Za-z0-9]+)>([^<]*)</\1>")
_REFERENCE: Final = re.compile(rb"&(?:#(\d{1,7})|#[xX]([0-9A-Fa-f]{1,6})|(amp|lt|gt|quot|apos));")
_NAMED: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
_PLAIN: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Arrival:
    """When an answer came, by both clocks.

    Args:
        monotonic: ``time.monotonic`` when its end had come.
        server_s: The server's clock at that time, Unix seconds, from the Date header.
    """

    monotonic: float
    server_s: float


def messages(data: bytes, arrival: Arrival) -> tuple[list[Message], list[str]]:
    """Read the answer of BatchReceiveMessage.

    Args:
        data: The answer's body.
        arrival: When it came; leases are counted from then.

    Returns:
        The messages, and one line for each problem (see ``messages.Batch``).

    Raises:
        AnswerError: It is not a ``<Messages>`` answer at all.
    """
    found: list[Message] = []
    problems: list[str] = []
    for entry in _entries(data):
        try:
            message = _message(entry, arrival)
        except (KeyError, ValueError, OverflowError) as error:
            problems.append(_skipped(entry, error))
        else:
            found.append(message)
            _check_md5(entry, message.body, problems)
    return found, problems


def peeked(data: bytes) -> list[Peeked]:
    """Read the answer of BatchPeekMessage; an entry that lacks a field is left out.

    Raises:
        AnswerError: It is not a ``<Messages>`` answer at all.
    """
    found: list[Peeked] = []
    for entry in _entries(data):
        try:
            found.append(_peeked(entry))
        except (KeyError, ValueError, OverflowError):
            continue
    return found


@dataclass(slots=True)
class _Entry:
    """One ``<Message>``: its fields, the body apart since it may not be text."""

    fields: Mapping[str, str]
    body: bytes | None
    user_properties: Mapping[str, str]
    system_properties: Mapping[str, str]


def _entries(data: bytes) -> Iterator[_Entry]:
    if (flat := flat_messages(data)) is not None:
        for found in flat:
            body = found.get("MessageBody")
            yield _Entry(found, None if body is None else body.encode("ascii"), _PLAIN, _PLAIN)
        return
    try:
        root = parse(data)
    except AnswerError:
        whole = _LIST.match(data) if b"<!" not in data else None
        if whole is None:
            raise
        yield from map(_entry_alone, _ENTRY.findall(whole[1]))
        return
    if local_name(root) != "Messages":
        raise AnswerError(f"expected <Messages>, came <{cut(local_name(root), 40)}>")
    for child in root:
        yield _entry(child)


def _entry(element: Element) -> _Entry:
    # One namespace holds for the whole answer, so what its own tag has of it is cut from each child's.
    start = element.tag.rfind("}") + 1
    found = {child.tag[start:]: child.text or "" for child in element}
    user = system = _PLAIN
    if "UserProperties" in found or "SystemProperties" in found:
        for child in element:
            name = child.tag[start:]
            if name == "UserProperties":
                user = _properties(child)
            elif name == "SystemProperties":
                system = _properties(child)
    body = found.get("MessageBody")
    return _Entry(found, None if body is None else body.encode(), user, system)


def _properties(element: Element) -> dict[str, str]:
    pairs = (fields(value) for value in element)
    return {pair["Name"]: pair.get("Value", "") for pair in pairs if "Name" in pair}


def _entry_alone(inner: bytes) -> _Entry:
    try:
        return _entry(parse(b"<Message>" + inner + b"</Message>"))
    except AnswerError:
        # Properties hold further elements, which the pattern of a field can't cross: they stay out.
        raw = {name.decode(): _unescaped(value) for name, value in _FIELD.findall(inner)}
        body = raw.get("MessageBody")
        return _Entry({n: v.decode(errors="replace") for n, v in raw.items()}, body, _PLAIN, _PLAIN)


def _unescaped(value: bytes) -> bytes:
    return _REFERENCE.sub(_referred, value) if b"&" in value else value


def _referred(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _NAMED[name]
    number = int(decimal) if decimal is not None else int(hexadecimal, 16)
    try:
        return chr(number).encode()
    except (ValueError, UnicodeEncodeError):  # no such character, or half of a pair: kept as written
        return match[0]


def _body(entry: _Entry) -> bytes:
    if entry.body is None:
        raise KeyError("MessageBody")
    return entry.body


def _message(entry: _Entry, arrival: Arrival) -> Message:
    found = entry.fields
    return Message(
        message_id=_filled(found, "MessageId"),
        body=_body(entry),
        receipt=receipt(found, arrival),
        enqueued_at=int(found["EnqueueTime"]) / _MS,
        first_dequeued_at=int(found["FirstDequeueTime"]) / _MS,
        dequeue_count=int(found["DequeueCount"]),
        priority=int(found["Priority"]),
        group_id=found.get("MessageGroupId") or None,
        user_properties=entry.user_properties,
        system_properties=entry.system_properties,
    )


def _peeked(entry: _Entry) -> Peeked:
    found = entry.fields
    enqueued_at = int(found["EnqueueTime"]) / _MS
    return Peeked(
        message_id=_filled(found, "MessageId"),
        body=_body(entry),
        enqueued_at=enqueued_at,
        first_dequeued_at=int(found.get("FirstDequeueTime") or found["EnqueueTime"]) / _MS,
        dequeue_count=int(found["DequeueCount"]),
        priority=int(found["Priority"]),
        group_id=found.get("MessageGroupId") or None,
        user_properties=entry.user_properties,
        system_properties=entry.system_properties,
    )


def receipt(found: Mapping[str, str], arrival: Arrival) -> Receipt:
    """The receipt that an answer gives.

    Args:
        found: The fields of the entry.
        arrival: When the answer came.

    Raises:
        KeyError: ReceiptHandle or NextVisibleTime is missing.
        ValueError: NextVisibleTime is no number.

    Source: facts/mns.md, 3: a handle lives until NextVisibleTime. Date is cut to whole seconds, hence the 1 s.
    """
    left_s = int(found["NextVisibleTime"]) / _MS - arrival.server_s - 1.0
    return Receipt(_filled(found, "ReceiptHandle"), arrival.monotonic + left_s)


def _filled(found: Mapping[str, str], name: str) -> str:
    if not found[name]:
        raise KeyError(name)
    return found[name]


def _skipped(entry: _Entry, error: Exception) -> str:
    what = (
        f"it lacks {error.args[0]}"
        if isinstance(error, KeyError)
        else f"a time or count is no number ({cut(str(error), 80)})"
    )
    name = cut(entry.fields.get("MessageId", "unknown"), 40)
    return f"message {name} was skipped and stays in its queue: {what}"


def _check_md5(entry: _Entry, body: bytes, problems: list[str]) -> None:
    expected = entry.fields.get("MessageBodyMD5")
    if expected and hashlib.md5(body, usedforsecurity=False).hexdigest() != expected.lower():
        problems.append(f"message {cut(entry.fields['MessageId'], 40)}: its body is not what MessageBodyMD5 says")
