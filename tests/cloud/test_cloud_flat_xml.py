"""The fast reader of plain answers gives the same values as the XML parser, or none."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.cloud.mns_xml import AnswerError, fields, flat_messages, local_name, parse
from consumer.sandbox.mns_api import messages_document
from consumer.sandbox.queue import Message

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
_NAMESPACE = ' xmlns="http://mns.aliyuncs.com/doc/v1/"'
_NAMES = st.sampled_from(["MessageId", "MessageBody", "ReceiptHandle", "Priority", "X"])
_TEXTS = st.text(st.sampled_from("aZ09+/= \n\t\r>]\"'&;<!-\x00\x0bé"), max_size=12)
_GAPS = st.sampled_from(["", "\n", "  ", "\r\n\t", "x", "<!---->", "\x0b"])
_PIECES = st.sampled_from(
    [
        b"<",
        b">",
        b"/",
        b"&amp;",
        b"]]>",
        b"<Message>",
        b"</Message>",
        b"<X/>",
        b"</Messages>",
        b"\0",
        b"\xff",
        b" a='1'",
    ]
)


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    entries = []
    for row in draw(st.lists(st.lists(st.tuples(_NAMES, _TEXTS), max_size=3), max_size=3)):
        inner = "".join(f"<{name}>{text}</{name}>{draw(_GAPS)}" for name, text in row)
        entries.append(f"<Message>{draw(_GAPS)}{inner}</Message>{draw(_GAPS)}")
    declaration = draw(st.sampled_from([_DECLARATION, _DECLARATION + "\n", "", '<?xml version="1.1"?>', "<?xml x?>"]))
    root = draw(st.sampled_from(["<Messages>", f"<Messages{_NAMESPACE}>", "<Messages a b>", "<messages>"]))
    return f"{declaration}{root}{draw(_GAPS)}{''.join(entries)}</Messages>{draw(_GAPS)}".encode()


@st.composite
def _spoilt(draw: st.DrawFn) -> bytes:
    """A plain answer with one piece put in, or one cut out."""
    data = messages_document([_message("eyJhIjoxfQ=="), _message("")])
    at = draw(st.integers(0, len(data)))
    if draw(st.booleans()):
        return data[:at] + draw(_PIECES) + data[at:]
    return data[:at] + data[at + draw(st.integers(1, 30)) :]


def _message(body: str) -> Message:
    made = Message(body, message_id="A1", enqueue_ms=1)
    made.handle = "h-1"
    return made


def _by_the_parser(data: bytes) -> list[dict[str, str]] | None:
    try:
        root = parse(data)
    except AnswerError:
        return None
    return [fields(child) for child in root] if local_name(root) == "Messages" else None


@given(_answers() | _spoilt() | st.binary(max_size=40))
@example(b"<Messages></Messages>")
@example(b"<Messages><Message><X>a</X>\x0b</Message></Messages>")
@example(b"<Messages><Message><X>]]></X></Message></Messages>")
def test_it_says_what_the_parser_says_or_nothing(data: bytes) -> None:
    """Any answer is read as the parser reads it, or left to the parser."""
    flat = flat_messages(data)
    assert flat is None or flat == _by_the_parser(data)


def test_the_service_s_usual_answer_is_read_without_the_parser() -> None:
    """Messages with base64 bodies and white space between the fields are read without the parser."""
    bodies = [b64encode(bytes(range(size))).decode() for size in (0, 1, 200)]
    data = messages_document([_message(body) for body in bodies])
    flat = flat_messages(data)
    assert flat is not None
    assert [entry["MessageBody"] for entry in flat] == bodies
    assert flat == _by_the_parser(data)
