"""The answers byte by byte: order of headers, request ids, handles, texts, and which query items are known."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest

from consumer.sandbox import Sandbox

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]
WriteSigned = Callable[..., bytes]

MESSAGES = "/queues/q/messages"
FOREIGN = "8-" + "0zxj" * 8 + "aB"


async def head_of(sandbox: Sandbox, request: bytes) -> list[str]:
    """Send one request on a connection that stays open; return the status line and headers of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        writer.write(request)
        return (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("method", "target", "status", "last"),
    [
        pytest.param("GET", "/queues/q", 200, (), id="200"),
        pytest.param("GET", "/queues/none", 404, (), id="404"),
        pytest.param("PUT", "/queues/new", 201, ("Location",), id="201"),
        pytest.param("DELETE", "/queues/none", 204, (), id="204"),
        pytest.param("PUT", "/queues/q", 204, ("Location",), id="204 with Location"),
    ],
)
async def test_headers_come_in_the_order_of_the_service(  # noqa: PLR0917 - a table
    sandbox: Sandbox, write_signed: WriteSigned, method: str, target: str, status: int, last: tuple[str, ...]
) -> None:
    """Headers come as captured: spelling, order, Connection, and a Content-Type but no length on a 204."""
    sandbox.account.ensure("q")
    head = await head_of(sandbox, write_signed(method, target, leave_out=("Connection",)))
    assert head[0].split()[1] == str(status)
    length = () if status == 204 else ("Content-Length",)
    assert [line.partition(":")[0] for line in head[1:]] == [
        *("Server", "Date", "Content-Type", *length, "Connection", "x-mns-version", "x-mns-request-id", *last)
    ]
    assert "Connection: keep-alive" in head
    assert "Content-Type: text/xml;charset=utf-8" in head


async def test_the_client_may_end_the_connection(sandbox: Sandbox, write_signed: WriteSigned) -> None:
    """The answer to a client that closes the connection says so."""
    assert "Connection: close" in await head_of(sandbox, write_signed("DELETE", "/queues/none"))


async def test_a_partial_batch_delete_closes_the_connection(sandbox: Sandbox, write_signed: WriteSigned) -> None:
    """After a batch delete that failed in part the connection is closed, and the answer says so."""
    sandbox.account.ensure("q")
    body = f"<ReceiptHandles><ReceiptHandle>{FOREIGN}</ReceiptHandle></ReceiptHandles>".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        writer.write(write_signed("DELETE", MESSAGES, body, leave_out=("Connection",)))
        answer = await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nConnection: close\r\n" in answer


async def test_the_request_id_begins_with_the_time(ask: Ask) -> None:
    """A request id has 24 upper-case hex digits, of which the first eight are the UNIX time."""
    _, headers, _ = await ask("GET", "/queues")
    request_id = headers["x-mns-request-id"].upper()
    assert re.fullmatch("[0-9A-F]{24}", request_id)
    assert abs(int(request_id[:8], 16) - time.time()) < 5


async def test_the_host_id_is_the_requests_own_host(ask: Ask, texts: Texts) -> None:
    """HostId names the host that the client asked, with its port."""
    _, _, body = await ask("GET", "/queues/none", headers={"Host": "localhost:8420"})
    assert texts(body, "HostId") == ["http://localhost:8420"]


async def test_expect_is_answered_before_the_body(sandbox: Sandbox, write_signed: WriteSigned) -> None:
    """A client that waits for 100-continue gets it at once, sends its body then, and is answered."""
    sandbox.account.ensure("q")
    body = b"<Message><MessageBody>x</MessageBody></Message>"
    request = write_signed("POST", MESSAGES, body, headers={"Expect": "100-continue"})
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    try:
        writer.write(request.removesuffix(body))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await asyncio.wait_for(reader.read(), 2)
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 201 Created\r\nServer: AliyunMQS\r\n")


@pytest.mark.parametrize("priority", [1, 8, 16])
async def test_handles_have_the_real_shape(sandbox: Sandbox, priority: int) -> None:
    """A receipt handle has 36 or 37 letters, digits and hyphens, and begins with the priority."""
    sandbox.put("q", "x", priority=priority)
    (message,) = sandbox.account.get("q").queue.receive(1, sandbox.clock.now_ms())
    assert re.fullmatch(rf"{priority}-[A-Za-z0-9-]{{34}}", message.handle or "")


@pytest.mark.parametrize(
    ("handle", "status", "code"),
    [
        pytest.param(FOREIGN, 404, "MessageNotExist", id="foreign"),
        pytest.param("1" + FOREIGN, 404, "MessageNotExist", id="foreign, 37 characters"),
        pytest.param("8-0zxj", 400, "ReceiptHandleError", id="short"),
        pytest.param(FOREIGN[:-1] + "=", 400, "ReceiptHandleError", id="another alphabet"),
        pytest.param(FOREIGN[:-1] + "+", 400, "ReceiptHandleError", id="a plus stays a plus"),
    ],
)
@pytest.mark.parametrize(("method", "rest"), [("DELETE", ""), ("PUT", "&VisibilityTimeout=9")], ids=["delete", "hide"])
async def test_handles_that_are_none(  # noqa: PLR0917 - a table
    sandbox: Sandbox, ask: Ask, texts: Texts, method: str, rest: str, handle: str, status: int, code: str
) -> None:
    """A well-formed handle that is not known is MessageNotExist, a malformed one ReceiptHandleError."""
    sandbox.account.ensure("q")
    got, _, body = await ask(method, f"{MESSAGES}?ReceiptHandle={handle}{rest}")
    assert (got, texts(body, "Code")) == (status, [code])


QUEUE = "<Queue><{0}>{1}</{0}></Queue>"


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "text"),
    [
        pytest.param(
            *("GET", MESSAGES, b"", {"Date": formatdate(time.time() - 9999, usegmt=True)}),
            "The http request you sent is expired.",
            id="TimeExpired",
        ),
        pytest.param(
            *("GET", MESSAGES, b"", {"Date": "yesterday"}), "The Date header format is invalid.", id="InvalidDateHeader"
        ),
        pytest.param(
            *("GET", MESSAGES, b"", {"Date": formatdate(localtime=True).replace("+0000", "+0800")}),
            "The Date header format is invalid.",
            id="InvalidDateHeader for another zone",
        ),
        pytest.param(
            *("GET", MESSAGES, b"", {"Authorization": "MNS x"}),
            "The Authorization header format is invalid.",
            id="InvalidAuthorizationHeader",
        ),
        pytest.param(
            *("GET", MESSAGES, b"", {"Authorization": "MNS stranger:x"}),
            "The access Id you provided does not exist.",
            id="InvalidAccessKeyId",
        ),
        pytest.param(
            *("PUT", "/queues/q", QUEUE.format("DelaySeconds", 1).encode(), {}),
            "The queue you want to create is already exist.",
            id="QueueAlreadyExist",
        ),
        pytest.param(
            *("POST", MESSAGES, b"<Message>", {}), "The XML you provided was not well-formed.", id="MalformedXML"
        ),
        pytest.param(*("GET", MESSAGES, b"", {}), "Message not exist.", id="MessageNotExist"),
        pytest.param(
            *("PUT", "/queues/n", QUEUE.format("VisibilityTimeout", 0).encode(), {}),
            "The value of VisibilityTimeout should between 1 and 43200 seconds",
            id="InvalidArgument in seconds",
        ),
        pytest.param(
            *("PUT", "/queues/n", QUEUE.format("MaximumMessageSize", 1).encode(), {}),
            "The value of MaximumMessageSize should between 1024 and 65536 bytes",
            id="InvalidArgument in bytes",
        ),
    ],
)
async def test_texts(  # noqa: PLR0917 - a table
    sandbox: Sandbox,
    ask: Ask,
    texts: Texts,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str],
    text: str,
) -> None:
    """The texts of refusals are those of the service."""
    sandbox.account.ensure("q")
    _, _, answer = await ask(method, target, body, headers=headers)
    assert texts(answer, "Message") == [text]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/queues/q/messages/deeper", "/queues, /queues/NAME and /queues/NAME/messages"),
        ("/topics", "does not implement topics and subscriptions"),
        ("/topics/t/subscriptions/s", "does not implement topics and subscriptions"),
        ("/?accountmeta=true", "does not implement the attributes of the account"),
    ],
)
async def test_what_is_missing_is_named(ask: Ask, texts: Texts, target: str, text: str) -> None:
    """A call that the sandbox does not have is InvalidRequestURL, and the text names what is missing."""
    status, _, body = await ask("GET", target)
    assert (status, texts(body, "Code")) == (400, ["InvalidRequestURL"])
    assert texts(body, "Message")[0].startswith("Http request URL format invalid. ")
    assert text in texts(body, "Message")[0]


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", "numOfMessages=2&waitseconds=0", 404),
        ("GET", "peekonly=true&numOfMessages=2", 404),
        ("PUT", f"ReceiptHandle={FOREIGN}&VisibilityTimeout=9", 404),
        ("PUT", f"receiptHandle={FOREIGN}&visibilityTimeout=9", 404),
        ("GET", "WaitSeconds=0", 400),
        ("GET", "numofmessages=2", 400),
        ("GET", "NumOfMessages=2", 400),
        ("GET", "peekOnly=true", 400),
        ("GET", "x=1", 400),
        ("DELETE", f"receipthandle={FOREIGN}", 400),
        ("PUT", f"ReceiptHandle={FOREIGN}&visibilitytimeout=9", 400),
    ],
)
async def test_query_items(  # noqa: PLR0917 - a table
    sandbox: Sandbox, ask: Ask, texts: Texts, method: str, query: str, status: int
) -> None:
    """The spellings that the vendor's clients send are known; any other item is InvalidQueryString."""
    sandbox.account.ensure("q")
    got, _, body = await ask(method, f"{MESSAGES}?{query}")
    assert (got, texts(body, "Code")) == (status, ["MessageNotExist" if status == 404 else "InvalidQueryString"])


@pytest.mark.parametrize("name", ["metaoverride", "metaOverride"])
async def test_setting_attributes_in_both_spellings(sandbox: Sandbox, ask: Ask, name: str) -> None:
    """Attributes are set by the clients' spelling of the item and by that of the vendor's page."""
    sandbox.account.ensure("q")
    assert (await ask("PUT", f"/queues/q?{name}=true", QUEUE.format("DelaySeconds", 9).encode()))[0] == 204
    assert sandbox.account.get("q").queue.attributes.delay_s == 9


@pytest.mark.parametrize("meta", [{}, {"x-mns-with-meta": "true"}], ids=["plain", "with meta"])
async def test_a_listing_has_url_and_name(sandbox: Sandbox, ask: Ask, texts: Texts, meta: dict[str, str]) -> None:
    """Each queue of a listing has its URL, then its name."""
    sandbox.account.ensure("q")
    _, _, body = await ask("GET", "/queues", headers=meta)
    assert re.findall("<(Queue[A-Z][a-zA-Z]+)>", body.decode()) == ["QueueURL", "QueueName"]
    assert texts(body, "QueueName") == ["q"]
    assert texts(body, "QueueURL")[0].endswith("/queues/q")


async def test_an_old_long_name_can_be_used(sandbox: Sandbox, ask: Ask) -> None:
    """A queue of 256 characters that is there can be used, while a new one has at most 120."""
    name = "a" * 256
    sandbox.put(name, "x")
    assert (await ask("GET", f"/queues/{name}/messages"))[0] == 200
    assert (await ask("PUT", f"/queues/{'a' * 120}"))[0] == 201
    assert (await ask("PUT", f"/queues/{'a' * 121}"))[0] == 400
