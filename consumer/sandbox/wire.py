"""Write MNS's answers, byte for byte as the service does.

Two-space indent, no final newline, the namespace without the last slash: two captured answers of the real
service have the lengths that only this gives (facts/mns.md#answers). Built from strings, since a benchmark
receives through here.

Elsewhere: reading requests (``reading``), the HTTP headers (``answer``).
"""

from collections.abc import Iterable, Mapping, Sequence

from consumer.sandbox.message import Message, Property

_DECLARATION = '<?xml version="1.0" ?>\n'
_NAMESPACE = ' xmlns="http://mns.aliyuncs.com/doc/v1"'

# A bare carriage return would reach the client as a line feed: every XML parser turns it into one.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


def escaped(text: str) -> str:
    """Escape text for an element."""
    return text.translate(_ESCAPES)


def element(root: str, children: Mapping[str, str]) -> bytes:
    """Write a document of one level: a root and its texts, in order."""
    inner = "".join(f"  <{name}>{escaped(text)}</{name}>\n" for name, text in children.items())
    return f"{_DECLARATION}<{root}{_NAMESPACE}>\n{inner}</{root}>".encode()


def listing(root: str, entry: str, entries: Iterable[Mapping[str, str]], marker: str = "") -> bytes:
    """Write a document of two levels: entries of one name, and a NextMarker where there is one."""
    inner = "".join(
        f"  <{entry}>\n"
        + "".join(f"    <{name}>{escaped(text)}</{name}>\n" for name, text in children.items())
        + f"  </{entry}>\n"
        for children in entries
    )
    if marker:
        inner += f"  <NextMarker>{escaped(marker)}</NextMarker>\n"
    return f"{_DECLARATION}<{root}{_NAMESPACE}>\n{inner}</{root}>".encode()


def error(code: str, message: str, request_id: str, host_id: str) -> bytes:
    """Write the body of every refusal; clients demand all four elements."""
    return element("Error", {"Code": code, "Message": message, "RequestId": request_id, "HostId": host_id})


def message(one: Message, *, is_peek: bool = False) -> bytes:
    """Write the answer of a receive or peek of one message."""
    head, tail = _fixed_parts(one, "  ")
    inner = _message(one, head, tail, "  ", is_peek=is_peek)
    return f"{_DECLARATION}<Message{_NAMESPACE}>\n{inner}</Message>".encode()


def messages(several: Sequence[Message], *, is_peek: bool = False) -> bytes:
    """Write the answer of a batch receive or batch peek."""
    parts = [_DECLARATION, "<Messages", _NAMESPACE, ">\n"]
    for one in several:
        if one.rendered is None:
            one.rendered = _fixed_parts(one, "    ")
        parts += (
            "  <Message>\n",
            _message(one, one.rendered[0], one.rendered[1], "    ", is_peek=is_peek),
            "  </Message>\n",
        )
    parts.append("</Messages>")
    return "".join(parts).encode()


def _message(one: Message, head: str, tail: str, indent: str, *, is_peek: bool) -> str:
    # The facts don't say what a peek shows for a message that was never received; clients demand a number.
    first_ms = one.first_dequeue_ms or one.enqueue_ms
    if is_peek:
        return (
            f"{head}{indent}<EnqueueTime>{one.enqueue_ms}</EnqueueTime>\n"
            f"{indent}<FirstDequeueTime>{first_ms}</FirstDequeueTime>\n"
            f"{indent}<DequeueCount>{one.dequeue_count}</DequeueCount>\n{tail}"
        )
    return (
        f"{head}{indent}<ReceiptHandle>{one.handle}</ReceiptHandle>\n"
        f"{indent}<EnqueueTime>{one.enqueue_ms}</EnqueueTime>\n"
        f"{indent}<FirstDequeueTime>{first_ms}</FirstDequeueTime>\n"
        f"{indent}<NextVisibleTime>{one.visible_ms}</NextVisibleTime>\n"
        f"{indent}<DequeueCount>{one.dequeue_count}</DequeueCount>\n{tail}"
    )


def _fixed_parts(one: Message, indent: str) -> tuple[str, str]:
    head = (
        f"{indent}<MessageId>{one.message_id}</MessageId>\n"
        f"{indent}<MessageBodyMD5>{one.body_md5}</MessageBodyMD5>\n"
        f"{indent}<MessageBody>{escaped(one.body)}</MessageBody>\n"
    )
    tail = f"{indent}<Priority>{one.priority}</Priority>\n"
    if one.group_id:
        tail += f"{indent}<MessageGroupId>{escaped(one.group_id)}</MessageGroupId>\n"
    tail += _properties("SystemProperties", "SystemPropertyValue", one.system_properties, indent)
    tail += _properties("UserProperties", "PropertyValue", one.user_properties, indent)
    return head, tail


def _properties(outer: str, inner: str, properties: tuple[Property, ...], indent: str) -> str:
    if not properties:
        return ""
    values = "".join(
        f"{indent}  <{inner}>\n"
        f"{indent}    <Name>{escaped(name)}</Name>\n"
        f"{indent}    <Value>{escaped(value)}</Value>\n"
        f"{indent}    <Type>{escaped(kind)}</Type>\n"
        f"{indent}  </{inner}>\n"
        for name, value, kind in properties
    )
    return f"{indent}<{outer}>\n{values}{indent}</{outer}>\n"
