"""The bytes that go over the wire, and the errors for requests that are wrong."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from consumer.sandbox import Sandbox, SandboxSettings
from consumer.sandbox.queue import Queue

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]

SPELLING = 'xmlns="http://mns.aliyuncs.com/doc/v1"'


async def test_a_sent_message_is_answered_in_208_bytes(sandbox: Sandbox, ask: Ask) -> None:
    """The answer of SendMessage has the length of the real service's captured one."""
    sandbox.account.ensure("q")
    status, headers, body = await ask("POST", "/queues/q/messages", b"<Message><MessageBody>x</MessageBody></Message>")
    assert (status, headers["content-length"], len(body)) == (201, "208", 208)


async def test_a_received_message_byte_for_byte(sandbox: Sandbox, ask: Ask) -> None:
    """ReceiveMessage: indent, namespace, order of elements, escapes, no final newline, and the headers' spelling."""
    message = sandbox.put("q", 'a<&>"\r\n副')
    status, headers, body = await ask("GET", "/queues/q/messages")
    assert status == 200
    assert body.decode() == (
        '<?xml version="1.0" ?>\n'
        f"<Message {SPELLING}>\n"
        f"  <MessageId>{message.message_id}</MessageId>\n"
        f"  <MessageBodyMD5>{message.body_md5}</MessageBodyMD5>\n"
        '  <MessageBody>a&lt;&amp;&gt;"&#13;\n副</MessageBody>\n'
        f"  <ReceiptHandle>{message.handle}</ReceiptHandle>\n"
        f"  <EnqueueTime>{message.enqueue_ms}</EnqueueTime>\n"
        f"  <FirstDequeueTime>{message.first_dequeue_ms}</FirstDequeueTime>\n"
        f"  <NextVisibleTime>{message.visible_ms}</NextVisibleTime>\n"
        "  <DequeueCount>1</DequeueCount>\n"
        "  <Priority>8</Priority>\n"
        "</Message>"
    )
    assert re.fullmatch("[0-9A-F]{32}", message.message_id)
    assert re.fullmatch("[0-9A-F]{32}", message.body_md5)
    assert headers["server"] == "aliyunmqs"
    assert headers["content-type"] == "text/xml;charset=utf-8"


async def test_a_204_has_no_length_and_keeps_the_connection(
    sandbox: Sandbox, write_signed: Callable[..., bytes]
) -> None:
    """A 204 ends with its headers, names no length, and the next answer comes on the same connection."""
    sandbox.account.ensure("q")
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        writer.write(write_signed("DELETE", "/queues/gone", leave_out=("Connection",)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"content-length" not in head.lower()
        assert b"transfer-encoding" not in head.lower()
        writer.write(write_signed("GET", "/queues/q", leave_out=("Connection",)))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()


async def test_properties_and_groups_come_in_the_documented_order(sandbox: Sandbox, ask: Ask) -> None:
    """Priority, MessageGroupId, SystemProperties, UserProperties follow each other, in a batch one step deeper."""
    sandbox.account.ensure("q")
    body = (
        '<Message xmlns="http://mns.aliyuncs.com/doc/v1/"><MessageBody>x</MessageBody><Priority>1</Priority>'
        "<MessageGroupId>g</MessageGroupId><UserProperties><PropertyValue><Name>n</Name><Value>1&amp;2</Value>"
        "<Type>STRING</Type></PropertyValue></UserProperties><SystemProperties><SystemPropertyValue>"
        "<Name>baggage</Name><Value>b</Value><Type>STRING</Type></SystemPropertyValue></SystemProperties></Message>"
    )
    assert (await ask("POST", "/queues/q/messages", body.encode()))[0] == 201
    _, _, answer = await ask("GET", "/queues/q/messages?numOfMessages=16")
    assert answer.decode().endswith(
        "    <DequeueCount>1</DequeueCount>\n"
        "    <Priority>1</Priority>\n"
        "    <MessageGroupId>g</MessageGroupId>\n"
        "    <SystemProperties>\n"
        "      <SystemPropertyValue>\n"
        "        <Name>baggage</Name>\n"
        "        <Value>b</Value>\n"
        "        <Type>STRING</Type>\n"
        "      </SystemPropertyValue>\n"
        "    </SystemProperties>\n"
        "    <UserProperties>\n"
        "      <PropertyValue>\n"
        "        <Name>n</Name>\n"
        "        <Value>1&amp;2</Value>\n"
        "        <Type>STRING</Type>\n"
        "      </PropertyValue>\n"
        "    </UserProperties>\n"
        "  </Message>\n"
        "</Messages>"
    )


async def test_an_error_has_all_four_elements(ask: Ask, texts: Texts) -> None:
    """An error names Code, Message, the RequestId of its header, and a HostId that is a URL."""
    status, headers, body = await ask("GET", "/queues/q")
    assert (status, texts(body, "Code")) == (404, ["QueueNotExist"])
    assert [id_.lower() for id_ in texts(body, "RequestId")] == [headers["x-mns-request-id"]]
    assert texts(body, "HostId")[0].startswith("http://")
    assert texts(body, "Message") != [""]


@pytest.mark.parametrize("namespace", [' xmlns="http://mns.aliyuncs.com/doc/v1/"', f" {SPELLING}", ""])
async def test_request_xml_by_local_name(sandbox: Sandbox, ask: Ask, namespace: str) -> None:
    """Requests are read with the namespace in any of its spellings, or none."""
    body = f"<Queue{namespace}><VisibilityTimeout>7</VisibilityTimeout></Queue>"
    assert (await ask("PUT", "/queues/q", body.encode()))[0] == 201
    assert sandbox.account.get("q").queue.attributes.visibility_timeout_s == 7


@pytest.mark.parametrize("is_escaped", [False, True], ids=["unescaped", "escaped"])
@pytest.mark.parametrize("name", ["ReceiptHandle", "receiptHandle"])
async def test_receipt_handles_in_a_url(
    sandbox: Sandbox,
    ask: Ask,
    name: str,
    is_escaped: bool,  # noqa: FBT001 - a case
) -> None:
    """A handle is understood as it is and percent-encoded, and its key in both spellings that clients send."""
    sandbox.put("q", "x")
    (message,) = sandbox.account.get("q").queue.receive(1, sandbox.clock.now_ms())
    handle = message.handle or ""
    sent = "".join(f"%{ord(letter):02x}" for letter in handle) if is_escaped else handle
    assert (await ask("DELETE", f"/queues/q/messages?{name}={sent}"))[0] == 204


MESSAGES = "/queues/q/messages"
TOO_MANY = b"<ReceiptHandles>" + b"<ReceiptHandle>1-x</ReceiptHandle>" * 17 + b"</ReceiptHandles>"
PROPERTY = (
    "<Message><MessageBody>x</MessageBody><{0}><V><Name>{1}</Name><Value>v</Value><Type>{2}</Type></V></{0}></Message>"
)


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        pytest.param("GET", "/queues/none/messages", b"", 404, "QueueNotExist", id="no such queue"),
        pytest.param("GET", MESSAGES, b"", 404, "MessageNotExist", id="empty"),
        pytest.param("GET", f"{MESSAGES}?peekonly=true", b"", 404, "MessageNotExist", id="peek on empty"),
        pytest.param("GET", f"{MESSAGES}?numOfMessages=17", b"", 400, "InvalidArgument", id="17 asked"),
        pytest.param("GET", f"{MESSAGES}?numOfMessages=x", b"", 400, "InvalidArgument", id="no number"),
        pytest.param("GET", f"{MESSAGES}?waitseconds=31", b"", 400, "InvalidArgument", id="31 s"),
        pytest.param("DELETE", MESSAGES, b"", 400, "MissingReceiptHandle", id="delete without handle"),
        pytest.param("DELETE", f"{MESSAGES}?ReceiptHandle=", b"", 400, "MissingReceiptHandle", id="empty handle"),
        pytest.param("DELETE", f"{MESSAGES}?ReceiptHandle=x", b"", 400, "ReceiptHandleError", id="no handle"),
        pytest.param("DELETE", MESSAGES, TOO_MANY, 400, "InvalidArgument", id="17 handles"),
        pytest.param("DELETE", MESSAGES, b"<ReceiptHandles/>", 400, "InvalidArgument", id="0 handles"),
        pytest.param("PUT", MESSAGES, b"", 400, "MissingReceiptHandle", id="hide without handle"),
        pytest.param("PUT", f"{MESSAGES}?ReceiptHandle=x", b"", 400, "MissingVisibilityTimeout", id="no time"),
        pytest.param("PUT", f"{MESSAGES}?ReceiptHandle=x&VisibilityTimeout=0", b"", 400, "InvalidArgument", id="0 s"),
        pytest.param("POST", MESSAGES, b"<Message>", 400, "MalformedXML", id="broken XML"),
        pytest.param("POST", MESSAGES, b"<Queue/>", 400, "MalformedXML", id="another root"),
        pytest.param("POST", MESSAGES, b"\xff<Message/>", 400, "MalformedXML", id="not UTF-8"),
        pytest.param(
            "POST", MESSAGES, b'<!DOCTYPE a [<!ENTITY b "c">]><Message/>', 400, "MalformedXML", id="a doctype"
        ),
        pytest.param("POST", MESSAGES, b"<Message/>", 400, "InvalidArgument", id="no body"),
        pytest.param("POST", MESSAGES, b"<Messages/>", 400, "InvalidArgument", id="no entries"),
        pytest.param(
            "POST",
            MESSAGES,
            b"<Message><MessageBody>x</MessageBody><Priority>17</Priority></Message>",
            400,
            "InvalidArgument",
            id="priority 17",
        ),
        pytest.param(
            "POST",
            MESSAGES,
            b"<Message><MessageBody>x</MessageBody><DelaySeconds>604801</DelaySeconds></Message>",
            400,
            "InvalidArgument",
            id="a delay over 7 days",
        ),
        pytest.param(
            "POST",
            MESSAGES,
            PROPERTY.format("UserProperties", "n", "LIST").encode(),
            400,
            "InvalidArgument",
            id="an unknown type",
        ),
        pytest.param(
            "POST",
            MESSAGES,
            PROPERTY.format("SystemProperties", "n", "STRING").encode(),
            400,
            "InvalidArgument",
            id="an unknown system property",
        ),
        pytest.param(
            "POST",
            MESSAGES,
            b"<Message><MessageBody>x</MessageBody><UserProperties>"
            + b"<V><Name>n</Name><Value>v</Value><Type>STRING</Type></V>" * 65
            + b"</UserProperties></Message>",
            400,
            "InvalidArgument",
            id="65 properties",
        ),
        pytest.param("PUT", "/queues/-x", b"", 400, "InvalidQueueName", id="a name with a hyphen first"),
        pytest.param("PUT", "/queues/a_b", b"", 400, "InvalidQueueName", id="an underscore"),
        pytest.param("PUT", f"/queues/{'a' * 121}", b"", 400, "QueueNameLengthError", id="121 characters"),
        pytest.param(
            "PUT",
            "/queues/n",
            b"<Queue><VisibilityTimeout>43201</VisibilityTimeout></Queue>",
            400,
            "InvalidArgument",
            id="visibility over 12 hours",
        ),
        pytest.param(
            "PUT",
            "/queues/n",
            b"<Queue><LoggingEnabled>maybe</LoggingEnabled></Queue>",
            400,
            "InvalidArgument",
            id="no boolean",
        ),
        pytest.param(
            "PUT",
            "/queues/q",
            b"<Queue><DelaySeconds>1</DelaySeconds></Queue>",
            409,
            "QueueAlreadyExist",
            id="exists with other attributes",
        ),
        pytest.param("PATCH", "/queues/q", b"", 400, "InvalidRequestURL", id="PATCH on a queue"),
        pytest.param("PATCH", MESSAGES, b"", 400, "InvalidRequestURL", id="PATCH on messages"),
        pytest.param("POST", "/queues", b"", 400, "InvalidRequestURL", id="POST on the list"),
        pytest.param("GET", "/topics/t", b"", 400, "InvalidRequestURL", id="a topic"),
        pytest.param("GET", "/?accountmeta=true", b"", 400, "InvalidRequestURL", id="the account"),
        pytest.param("GET", "/queues/q/messages/x", b"", 400, "InvalidRequestURL", id="too deep"),
    ],
)
async def test_refusals(  # noqa: PLR0917 - a table
    sandbox: Sandbox, ask: Ask, texts: Texts, method: str, target: str, body: bytes, status: int, code: str
) -> None:
    """Each wrong request gets the documented status and code, and changes nothing."""
    sandbox.account.ensure("q")
    got, _, answer = await ask(method, target, body)
    assert (got, texts(answer, "Code")) == (status, [code])
    assert [mailbox.queue.name for mailbox in sandbox.account.all()] == ["q"]
    assert sandbox.messages("q") == []


async def test_partial_batch_delete_names_only_the_failed(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A batch delete with a dead handle answers 404 with that one only, and deletes the others."""
    for body in "abc":
        sandbox.put("q", body)
    _, _, got = await ask("GET", "/queues/q/messages?numOfMessages=16")
    handles = texts(got, "ReceiptHandle")
    await ask("DELETE", f"/queues/q/messages?ReceiptHandle={handles[1]}")
    body = "".join(f"<ReceiptHandle>{handle}</ReceiptHandle>" for handle in handles)
    status, _, answer = await ask("DELETE", MESSAGES, f"<ReceiptHandles>{body}</ReceiptHandles>".encode())
    assert status == 404
    assert answer.decode() == (
        f'<?xml version="1.0" ?>\n<Errors {SPELLING}>\n  <Error>\n'
        "    <ErrorCode>MessageNotExist</ErrorCode>\n"
        "    <ErrorMessage>Message not exist.</ErrorMessage>\n"
        f"    <ReceiptHandle>{handles[1]}</ReceiptHandle>\n"
        "  </Error>\n</Errors>"
    )
    assert sandbox.messages("q") == []


async def test_listing_by_prefix_page_and_meta(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """ListQueue pages by marker, selects by prefix and shows attributes when asked."""
    for name in ("a1", "a2", "a3", "b1"):
        sandbox.account.create(name)
    how = {"x-mns-prefix": "a", "x-mns-ret-number": "2"}
    _, _, first = await ask("GET", "/queues", headers=how)
    assert [url.rpartition("/")[2] for url in texts(first, "QueueURL")] == ["a1", "a2"]
    (marker,) = texts(first, "NextMarker")
    _, _, last = await ask("GET", "/queues", headers={**how, "x-mns-marker": marker, "x-mns-with-meta": "true"})
    assert [url.rpartition("/")[2] for url in texts(last, "QueueURL")] == ["a3"]
    assert (texts(last, "NextMarker"), texts(last, "VisibilityTimeout")) == ([], ["30"])
    assert (await ask("GET", "/queues", headers={"x-mns-ret-number": "1001"}))[0] == 400


async def test_attributes_count_no_delayed_messages(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """GetQueueAttributes counts visible and received messages; DelayMessages is being withdrawn and always 0."""
    for delay_s in (0, 0, 60):
        sandbox.put("q", "x", delay_s=delay_s)
    await ask("GET", "/queues/q/messages")
    _, _, body = await ask("GET", "/queues/q")
    names = ("ActiveMessages", "InactiveMessages", "DelayMessages")
    assert [texts(body, name) for name in names] == [["1"], ["1"], ["0"]]


async def test_the_account_holds_1000_queues(sandbox: Sandbox, ask: Ask) -> None:
    """The 1,001st queue is refused."""
    for number in range(1000):
        sandbox.account.create(f"q{number}")
    assert (await ask("PUT", "/queues/more"))[0] == 400


async def test_too_large_a_request_is_refused(sandbox: Sandbox, write_signed: Callable[..., bytes]) -> None:
    """A request body over every limit is answered 413 and never kept in memory whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        writer.write(b"POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n")
        writer.write(b"x" * 7_000_000)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
    finally:
        writer.close()


async def test_dead_letters_keep_their_origin_and_their_age() -> None:
    """A message moved to the dead-letter queue names where it came from, and its retention goes on."""
    settings = SandboxSettings.model_validate(
        {"port": 0, "dlq_policies": {"q": {"dead_letter_target_queue": "dead", "max_receive_count": 1}}}
    )
    async with Sandbox(settings) as sandbox:
        sent = sandbox.put("q", "x")
        queue: Queue = sandbox.account.get("q").queue
        queue.receive(1, sandbox.clock.now_ms())
        sandbox.account.advance_clock(30)
        assert sandbox.messages("q") == []
        (moved,) = sandbox.messages("dead")
        assert (moved.body, moved.enqueue_ms, moved.dequeue_count) == ("x", sent.enqueue_ms, 0)
        assert moved.message_id != sent.message_id
        assert {name: value for name, value, _ in moved.system_properties} == {
            "DLQSourceArn": "acs:mns:cn-hangzhou:1234567890123456:/queues/q",
            "DLQOriginMessageId": sent.message_id,
        }
