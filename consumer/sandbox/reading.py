"""Read the XML of MNS requests.

Clients write the namespace with a slash at its end, without, or not at all, so names are compared without it.
A doctype or an entity is refused before any parser sees it; the text is decoded first, so that no declared
encoding can hide one.

Elsewhere: writing (``wire``), the ranges of a queue's settings (``attributes``).
"""

import re
from xml.etree.ElementTree import Element, ParseError
from xml.etree.ElementTree import fromstring as parse_xml

from consumer.sandbox.attributes import whole_number
from consumer.sandbox.message import Draft, Property
from consumer.sandbox.refusal import MnsError

MOST_IN_BATCH = 16

_DECLARATION_IN_TEXT = re.compile(r"<!(?!--|\[CDATA\[)")
_LONGEST_DELAY_S = 604_800
_LOWEST_PRIORITY = 16
_MOST_PROPERTIES = 64

# The names and types that the service knows (facts/mns.md#message-properties).
_PROPERTY_TYPES = frozenset({"STRING", "NUMBER", "BOOLEAN", "BINARY"})
_SYSTEM_PROPERTY_NAMES = frozenset(
    {"traceparent", "tracestate", "baggage", "DLQMessageType", "DLQSourceArn", "DLQOriginMessageId"}
)


def read_settings(body: bytes) -> dict[str, str]:
    """Read ``<Queue>`` into element name and text.

    Raises:
        MnsError: MalformedXML.
    """
    if not body:
        return {}
    return {_local(child): (child.text or "") for child in _root(body, "Queue")}


def is_batch_send(body: bytes) -> bool:
    """Tell BatchSendMessage from SendMessage by its root, without parsing."""
    return b"<Messages" in body[:256]


def read_drafts(body: bytes) -> list[Draft]:
    """Read ``<Message>``, or ``<Messages>`` of 1 to 16.

    Raises:
        MnsError: MalformedXML; InvalidArgument, then nothing of the batch is sent.
    """
    if not is_batch_send(body):
        return [_draft(_root(body, "Message"))]
    entries = [child for child in _root(body, "Messages") if _local(child) == "Message"]
    _check_batch(len(entries))
    return [_draft(entry) for entry in entries]


def read_handles(body: bytes) -> list[str]:
    """Read ``<ReceiptHandles>`` of 1 to 16.

    Raises:
        MnsError: MalformedXML, InvalidArgument.
    """
    root = _root(body, "ReceiptHandles")
    handles = [(child.text or "").strip() for child in root if _local(child) == "ReceiptHandle"]
    _check_batch(len(handles))
    return handles


def _check_batch(count: int) -> None:
    if not 1 <= count <= MOST_IN_BATCH:
        raise MnsError("InvalidArgument", f"A batch holds 1 to {MOST_IN_BATCH} entries, not {count}.")


def _root(body: bytes, name: str) -> Element:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _malformed() from error
    if _DECLARATION_IN_TEXT.search(text):
        raise _malformed()
    try:
        root = parse_xml(text)  # noqa: S314 - doctype and entities were refused just above
    except ParseError as error:
        raise _malformed() from error
    if _local(root) != name:
        raise _malformed()
    return root


def _malformed() -> MnsError:
    return MnsError("MalformedXML", "The XML you provided was not well-formed.")


def _local(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _draft(node: Element) -> Draft:
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
    delay, priority = texts.get("DelaySeconds"), texts.get("Priority")
    return Draft(
        body=texts["MessageBody"],
        priority=8 if priority is None else whole_number("Priority", priority, 1, _LOWEST_PRIORITY),
        delay_s=None if delay is None else whole_number("DelaySeconds", delay, 0, _LONGEST_DELAY_S, "seconds"),
        group_id=texts.get("MessageGroupId", ""),
        user_properties=properties.get("UserProperties", ()),
        system_properties=properties.get("SystemProperties", ()),
    )


def _property(node: Element, where: str) -> Property:
    texts = {_local(child): (child.text or "") for child in node}
    name, kind = texts.get("Name", ""), texts.get("Type", "")
    if not name or "Value" not in texts or kind not in _PROPERTY_TYPES:
        raise MnsError("InvalidArgument", f"{where}: every value has Name, Value and a known Type.")
    if where == "SystemProperties" and name not in _SYSTEM_PROPERTY_NAMES:
        raise MnsError("InvalidArgument", f"SystemProperties: unknown name '{name[:64]}'.")
    return name, texts["Value"], kind
