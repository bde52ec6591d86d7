"""MNS's XML: requests read, responses written byte for byte as the service writes them.

Reading compares local names: clients send the namespace with a slash at its end, without, or not at all. A doctype or
entity is refused before the parser sees it; the text is decoded first, so no declared encoding can hide one. What is
wrong raises MalformedXML or InvalidArgument.

Writing: two-space indent, no final newline, and a namespace without the last slash. Two captured responses of the
service have the lengths that only this gives (facts/mns.md#answers). It concatenates strings because the bench receives
through it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from xml.etree.ElementTree import Element, ParseError
from xml.etree.ElementTree import fromstring as parse_xml

from consumer.sandbox.protocol import MnsError
from consumer.sandbox.queue import Message, Property, whole_number

MOST_IN_BATCH: Final = 16

_DOCTYPE: Final = re.compile(r"<!(?!--|\[CDATA\[)")
_MOST_PROPERTIES: Final = 64

# The types and names that the service knows (facts/mns.md#message-properties).
_PROPERTY_TYPES: Final = frozenset({"STRING", "NUMBER", "BOOLEAN", "BINARY"})
_SYSTEM_PROPERTY_NAMES: Final = frozenset(
    {"traceparent", "tracestate", "baggage", "DLQMessageType", "DLQSourceArn", "DLQOriginMessageId"}
)

_DECLARATION: Final = '<?xml version="1.0" ?>\n'
_NAMESPACE: Final = ' xmlns="http://mns.aliyuncs.com/doc/v1"'
# Every XML parser turns a bare carriage return into a line feed, so it is written as a reference.
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


def read_attributes(body: bytes) -> dict[str, str]:
    """Read ``<Queue>`` as element name and text; an empty body has none."""
    return {_local(child): child.text or "" for child in _root(body, "Queue")} if body else {}


def is_batch_send(body: bytes) -> bool:
    """Whether a body is that of BatchSendMessage, by its root and without parsing."""
    return b"<Messages" in body[:256]


def read_messages(body: bytes) -> list[Message]:
    """Read ``<Message>``, or ``<Messages>`` of 1 to 16; one wrong entry refuses the whole batch."""
    if not is_batch_send(body):
        return [_message_of(_root(body, "Message"))]
    return [_message_of(entry) for entry in _batch(_root(body, "Messages"), "Message")]


def read_handles(body: bytes) -> list[str]:
    """Read ``<ReceiptHandles>`` of 1 to 16."""
    return [(entry.text or "").strip() for entry in _batch(_root(body, "ReceiptHandles"), "ReceiptHandle")]


def _batch(root: Element, name: str) -> list[Element]:
    entries = [child for child in root if _local(child) == name]
    if not 1 <= len(entries) <= MOST_IN_BATCH:
        raise MnsError("InvalidArgument", f"A batch holds 1 to {MOST_IN_BATCH} entries, not {len(entries)}.")
    return entries


def _root(body: bytes, name: str) -> Element:
    try:
        text = body.decode()
        root = None if _DOCTYPE.search(text) else parse_xml(text)  # noqa: S314 - no doctype, so no entities
    except (UnicodeDecodeError, ParseError):
        root = None
    if root is None or _local(root) != name:
        raise MnsError("MalformedXML", "The XML you provided was not well-formed.")
    return root


def _local(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _message_of(node: Element) -> Message:
    texts: dict[str, str] = {}
    properties: dict[str, tuple[Property, ...]] = {}
    for child in node:
        name = _local(child)
        if name in ("UserProperties", "SystemProperties"):
            properties[name] = tuple(_property(value, name) for value in child)
            if len(properties[name]) > _MOST_PROPERTIES:
                raise MnsError("InvalidArgument", f"{name} holds at most {_MOST_PROPERTIES} values.")
        else:
            texts[name] = child.text or ""
    if not texts.get("MessageBody"):
        raise MnsError("InvalidArgument", "MessageBody is missing or empty.")
    delay = texts.get("DelaySeconds")
    return Message(
        texts["MessageBody"],
        whole_number("Priority", texts.get("Priority", "8"), 1, 16),
        None if delay is None else whole_number("DelaySeconds", delay, 0, 604_800, "seconds"),
        texts.get("MessageGroupId", ""),
        properties.get("UserProperties", ()),
        properties.get("SystemProperties", ()),
    )


def _property(node: Element, where: str) -> Property:
    texts = {_local(child): child.text or "" for child in node}
    name, kind = texts.get("Name", ""), texts.get("Type", "")
    if not name or "Value" not in texts or kind not in _PROPERTY_TYPES:
        raise MnsError("InvalidArgument", f"{where}: every value has Name, Value and a known Type.")
    if where == "SystemProperties" and name not in _SYSTEM_PROPERTY_NAMES:
        raise MnsError("InvalidArgument", f"SystemProperties: unknown name '{name[:64]}'.")
    return name, texts["Value"], kind


def escaped(text: str) -> str:
    """Escape text for an element."""
    return text.translate(_ESCAPES)


def element(root: str, children: Mapping[str, str]) -> bytes:
    """Write a document of one level: a root and its texts, in order."""
    return _document(root, _texts(children, "  "))


def listing(root: str, entry: str, entries: Iterable[Mapping[str, str]], marker: str = "") -> bytes:
    """Write a document of two levels: entries of one name, and a NextMarker unless it is empty."""
    inner = "".join(f"  <{entry}>\n{_texts(children, '    ')}  </{entry}>\n" for children in entries)
    return _document(root, inner + (f"  <NextMarker>{escaped(marker)}</NextMarker>\n" if marker else ""))


def error(code: str, message: str, request_id: str, host_id: str) -> bytes:
    """Write an error; clients require all four elements."""
    return element("Error", {"Code": code, "Message": message, "RequestId": request_id, "HostId": host_id})


def message(one: Message, *, is_peek: bool = False) -> bytes:
    """Write the response of a receive or peek of one message."""
    return _document("Message", _message(one, "  ", is_peek=is_peek))


def messages(several: Sequence[Message], *, is_peek: bool = False) -> bytes:
    """Write the response of a batch receive or batch peek."""
    entries = (f"  <Message>\n{_message(one, '    ', is_peek=is_peek)}  </Message>\n" for one in several)
    return _document("Messages", "".join(entries))


def _document(root: str, inner: str) -> bytes:
    return f"{_DECLARATION}<{root}{_NAMESPACE}>\n{inner}</{root}>".encode()


def _texts(children: Mapping[str, str], indent: str) -> str:
    return "".join(f"{indent}<{name}>{escaped(text)}</{name}>\n" for name, text in children.items())


def _message(one: Message, indent: str, *, is_peek: bool) -> str:
    handle = "" if is_peek else f"{indent}<ReceiptHandle>{one.handle}</ReceiptHandle>\n"
    visible = "" if is_peek else f"{indent}<NextVisibleTime>{one.visible_ms}</NextVisibleTime>\n"
    # The facts don't say what a peek shows of a message that was never received; clients require a number.
    first_ms = one.first_dequeue_ms or one.enqueue_ms
    group = f"{indent}<MessageGroupId>{escaped(one.group_id)}</MessageGroupId>\n" if one.group_id else ""
    return (
        f"{indent}<MessageId>{one.message_id}</MessageId>\n"
        f"{indent}<MessageBodyMD5>{one.body_md5}</MessageBodyMD5>\n"
        f"{indent}<MessageBody>{escaped(one.body)}</MessageBody>\n{handle}"
        f"{indent}<EnqueueTime>{one.enqueue_ms}</EnqueueTime>\n"
        f"{indent}<FirstDequeueTime>{first_ms}</FirstDequeueTime>\n{visible}"
        f"{indent}<DequeueCount>{one.dequeue_count}</DequeueCount>\n"
        f"{indent}<Priority>{one.priority}</Priority>\n{group}"
        f"{_properties('SystemProperties', 'SystemPropertyValue', one.system_properties, indent)}"
        f"{_properties('UserProperties', 'PropertyValue', one.user_properties, indent)}"
    )


def _properties(outer: str, inner: str, properties: tuple[Property, ...], indent: str) -> str:
    if not properties:
        return ""
    values = "".join(
        f"{indent}  <{inner}>\n"
        + _texts({"Name": name, "Value": value, "Type": kind}, f"{indent}    ")
        + f"{indent}  </{inner}>\n"
        for name, value, kind in properties
    )
    return f"{indent}<{outer}>\n{values}{indent}</{outer}>\n"
