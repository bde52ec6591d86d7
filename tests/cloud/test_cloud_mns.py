"""The operations of a queue: what they send, what counts as success, and the fault of each refusal."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mns.mns_xml_handler import ReceiptHandlesEncoder
from yarl import URL

from consumer.cloud.clients import open_clients, open_queue
from consumer.cloud.credentials import Keys
from consumer.cloud.faults import mns_fault, mps_fault
from consumer.cloud.messages import DeleteFailure
from consumer.cloud.mns import MnsSigner, escaped, handles_xml, v4_authorization
from consumer.config import load
from consumer.errors import CloudError, Fault
from consumer.sandbox import Sandbox


def error_xml(code: str, message: str = "m") -> bytes:
    return (
        f'<?xml version="1.0" ?>\n<Error xmlns="http://mns.aliyuncs.com/doc/v1"><Code>{code}</Code>'
        f"<Message>{message}</Message><RequestId>R2</RequestId><HostId>http://h</HostId></Error>"
    ).encode()


def unsigned_xml(code: str) -> bytes:
    return error_xml(code).replace(b"<RequestId>R2</RequestId>", b"")


def errors_xml(*entries: tuple[str, str]) -> bytes:
    inner = "".join(
        f"<Error><ErrorCode>{code}</ErrorCode><ErrorMessage>m</ErrorMessage><ReceiptHandle>{handle}</ReceiptHandle></Error>"
        for handle, code in entries
    )
    return f'<Errors xmlns="http://mns.aliyuncs.com/doc/v1">{inner}</Errors>'.encode()


VERBS = [
    pytest.param(lambda queue: queue.receive(16, 0), id="receive"),
    pytest.param(lambda queue: queue.delete(["a", "b"]), id="delete"),
    pytest.param(lambda queue: queue.hide("a", 5), id="hide"),
    pytest.param(lambda queue: queue.send("x"), id="send"),
    pytest.param(lambda queue: queue.peek(16), id="peek"),
    pytest.param(lambda queue: queue.attributes(), id="attributes"),
]


def test_the_signature_is_the_documented_one() -> None:
    """The SDK's signer, as we use it, gives the signature of the vendor's example."""
    signer = MnsSigner("host")
    headers = {"date": "Thu, 09 Jul 2015 03:01:34 GMT", "x-mns-version": "2015-06-06"}
    signer.headers(Keys("id", "TestAccessSecret"), "GET", "/MyQueue", None)
    signed = signer._client.get_signature("GET", headers, "/MyQueue", signer._provider.credentials)
    assert signed == "MNS id:uwx3yeWoILzgmvesW0BQSgfM7b8="


def test_keys_are_taken_anew_for_each_request() -> None:
    """New keys sign the next request, and a token is sent only if there is one."""
    signer = MnsSigner("host:1")
    lasting = signer.headers(Keys("first", "s"), "GET", "/queues/q", None)
    sts = signer.headers(Keys("second", "s", "token"), "PUT", "/queues/q", b"<a/>")
    assert lasting["Authorization"].startswith("MNS first:")
    assert "security-token" not in lasting
    assert sts["Authorization"].startswith("MNS second:")
    assert (sts["security-token"], sts["host"]) == ("token", "host:1")
    assert sts["content-md5"]


def v4_by_the_facts(secret: str, day: str, region: str, text: str) -> str:
    """Sign a string as the facts say, step by step."""
    key = f"aliyun_v4{secret}".encode()
    for part in (day, region, "mns", "aliyun_v4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("resource", "path", "query"),
    [
        ("/queues/q", "/queues/q", ""),
        (
            "/queues/q/messages?numOfMessages=16&waitseconds=30",
            "/queues/q/messages",
            "numofmessages=16&waitseconds=30",
        ),
        (
            "/queues/q/messages?VisibilityTimeout=5&ReceiptHandle=8-a+/=%26%20~",
            "/queues/q/messages",
            "receipthandle=8-a%2B%2F%3D%26%20~&visibilitytimeout=5",
        ),
        ("/queues/q?b=&Metaoverride&a=1", "/queues/q", "a=1&b&metaoverride"),
    ],
)
def test_version_4_signs_what_the_facts_say(resource: str, path: str, query: str) -> None:
    """Method, path, sorted query and sorted headers, under a key of the day and the region."""
    headers = {
        "date": "Thu, 09 Jul 2015 03:01:34 GMT",
        "host": "h",
        "user-agent": "u",
        "x-mns-version": "2015-06-06",
        "content-type": "text/xml;charset=UTF-8",
        "content-md5": "MD5==",
    }
    lines = "content-md5:MD5==\ncontent-type:text/xml;charset=UTF-8\nx-mns-version:2015-06-06\n"
    text = f"MNS4-HMAC-SHA256\n20150709T030134Z\n20150709/cn-x/mns/aliyun_v4_request\nPUT\n{path}\n{query}\n{lines}\n"
    assert v4_authorization(Keys("id", "secret"), "cn-x", "PUT", resource, headers) == (
        "MNS4-HMAC-SHA256 Credential=id/20150709/cn-x/mns/aliyun_v4_request,"
        f"Signature={v4_by_the_facts('secret', '20150709', 'cn-x', text)}"
    )


async def test_a_queue_signs_by_the_version_of_its_lane(tmp_path: Path) -> None:
    """The sandbox verifies every operation of a queue that is set to version 4, also from its second client."""
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure("q")
        path = tmp_path / "settings.toml"
        path.write_text(
            f"""
            endpoint = "{sandbox.url}"
            access_key_id = "sandbox"
            access_key_secret = "sandbox"
            notify_url = ["mns://1.mns.cn-x.aliyuncs.com/queues/other"]
            [[lanes]]
            notify_url = "{sandbox.notify_url("q")}"
            signature = "v4"
            """
        )
        other, lane = load({}, path).queues()
        assert (other.signature, lane.signature) == ("v2", "v4")
        async with open_clients(lane) as clients:
            queue = clients.queue
            assert queue.signer.headers(Keys("a", "b"), "GET", "/", None)["Authorization"].startswith("MNS4")
            await queue.send("b")
            assert len(await queue.peek(1)) == 1
            (message,) = (await queue.receive(16, 1)).messages
            receipt = await queue.hide(message.receipt.handle, 5)
            assert await queue.delete([receipt.handle]) == ()
            assert (await queue.attributes()).name == "q"
            async with open_queue(lane, clients.credentials) as second:
                assert second.signer.headers(Keys("a", "b"), "GET", "/", None)["Authorization"].startswith("MNS4")
                await second.send("b")


@given(st.text(min_size=1, max_size=60).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_a_handle_is_sent_as_it_was_signed(handle: str) -> None:
    """Any receipt handle leaves as it is signed, byte for byte, and is read back as it was."""
    resource = f"/queues/q/messages?ReceiptHandle={escaped(handle)}&VisibilityTimeout=5"
    url = URL("http://h" + resource, encoded=True)
    assert url.raw_path_qs == resource
    # A plus sign stays one (facts/mns.md#what-clients-send), which yarl's own decoding would not know.
    assert URL("http://h" + resource.replace("+", "%2B"), encoded=True).query["ReceiptHandle"] == handle


async def test_what_a_receive_sends(start: Any, mns_reply: Any) -> None:
    """Count and wait stand in the query, the token in its header; nothing of aiohttp's own is added."""
    talk = await start(mns_reply(404, error_xml("MessageNotExist")))
    batch = await talk.queue.receive(7, 12)
    assert batch.messages == ()
    (asked,) = talk.peer.asked
    assert asked.line == "GET /queues/q/messages?numOfMessages=7&waitseconds=12 HTTP/1.1"
    assert asked.headers["security-token"] == "hush-hush-token"
    assert asked.headers["x-mns-version"] == "2015-06-06"
    assert asked.headers["host"] == f"127.0.0.1:{talk.peer.port}"
    assert talk.observed == [("BatchReceiveMessage", "ok")]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        pytest.param((200, b"<!DOCTYPE html><html>Welcome</html>"), {}, id="200 HTML"),
        pytest.param((200, b"<html/>"), {"request_id": None}, id="200 HTML of a proxy"),
        pytest.param((302, b""), {"Location": "http://elsewhere.example/?token=hush"}, id="redirect"),
        pytest.param((301, b""), {"Location": "http://[broken"}, id="redirect to nowhere"),
        pytest.param((202, b""), {}, id="another success"),
        pytest.param((404, b"<html>not found</html>"), {}, id="404 HTML"),
        pytest.param((404, unsigned_xml("MessageNotExist")), {"request_id": None}, id="404 without request id"),
        pytest.param((403, unsigned_xml("AccessDenied")), {"request_id": None}, id="403 without request id"),
        pytest.param((404, error_xml("")), {}, id="404 without a code"),
        pytest.param((400, b"<Fault><Code>X</Code><RequestId>R</RequestId></Fault>"), {}, id="another service's 400"),
        pytest.param((300, errors_xml(("a", "MessageNotExist"))), {}, id="300 with errors"),
        pytest.param((203, errors_xml(("a", "MessageNotExist"))), {}, id="203 with errors"),
        pytest.param((404, b"<!DOCTYPE html><html>"), {}, id="404 HTML with doctype"),
        pytest.param((404, b"<Errors/>"), {}, id="404 naming nothing"),
        pytest.param((204, b""), {"request_id": None}, id="204 without request id"),
        pytest.param((201, b"<Message><MessageId></MessageId></Message>"), {}, id="201 without a MessageId"),
        pytest.param(
            (200, b"<ChangeVisibility><ReceiptHandle>h</ReceiptHandle></ChangeVisibility>"), {}, id="half a 200"
        ),
        pytest.param((200, b"<Queue><QueueName>q</QueueName></Queue>"), {}, id="half a queue"),
    ],
)
async def test_what_is_not_the_services_answer_is_never_success(
    start: Any, mns_reply: Any, verb: Any, answer: tuple[int, bytes], headers: dict[str, Any]
) -> None:
    """Anything but the documented success is an error, and no request is repeated."""
    talk = await start(mns_reply(*answer, **headers))
    with pytest.raises(CloudError, match=r"expected|missing") as caught:
        await verb(talk.queue)
    assert caught.value.fault is Fault.UNREADABLE
    assert len(talk.peer.asked) == 1
    assert "hush" not in str(caught.value)
    assert talk.observed == [(caught.value.operation, "unreadable")]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param((404, error_xml("QueueNotExist"), "R"), (Fault.MISSING, "QueueNotExist"), id="no queue"),
        pytest.param((403, error_xml("AccessDenied"), "R"), (Fault.CREDENTIALS, "AccessDenied"), id="no right"),
        pytest.param((403, error_xml("NewWord"), "R"), (Fault.CREDENTIALS, "NewWord"), id="unknown 403"),
        pytest.param((408, error_xml("TimeExpired"), "R"), (Fault.CLOCK, "TimeExpired"), id="clock"),
        pytest.param((400, error_xml("InvalidArgument"), "R"), (Fault.REQUEST, "InvalidArgument"), id="argument"),
        pytest.param((400, error_xml("QpsLimitExceeded"), "R"), (Fault.THROTTLED, "QpsLimitExceeded"), id="too fast"),
        pytest.param((404, error_xml("QueueNotExist"), None), (Fault.MISSING, "QueueNotExist"), id="signed inside"),
        pytest.param((408, error_xml("TimeExpired"), None), (Fault.CLOCK, "TimeExpired"), id="clock, signed inside"),
        pytest.param((429, b"", None), (Fault.THROTTLED, "Http429"), id="429 of a front end"),
        pytest.param((500, error_xml("InternalError"), "R"), (Fault.SERVER, "InternalError"), id="500"),
        pytest.param((503, b"<html>busy</html>", None), (Fault.SERVER, "Http503"), id="503 HTML"),
        pytest.param((502, b"<Errors/>", "R"), (Fault.SERVER, "Http502"), id="502 with another root"),
    ],
)
async def test_each_refusal_has_its_fault(
    start: Any, mns_reply: Any, verb: Any, answer: tuple[int, bytes, str | None], expected: tuple[Fault, str]
) -> None:
    """The service's code decides the fault, which has operation, queue, status and request id."""
    status, body, request_id = answer
    talk = await start(mns_reply(status, body, request_id=request_id))
    with pytest.raises(CloudError) as caught:
        await verb(talk.queue)
    error = caught.value
    assert (error.fault, error.code, error.status, error.target) == (*expected, status, "q")
    assert error.request_id == (request_id or ("R2" if b"R2" in body else None))
    assert talk.observed == [(error.operation, error.fault.value)]


@pytest.mark.parametrize("code", ["MessageNotExist", "ReceiptHandleError"])
async def test_a_dead_handle_is_gone(start: Any, mns_reply: Any, code: str) -> None:
    """Hiding by a dead handle is ``GONE``; so is deleting by it, alone as well as in a batch."""
    talk = await start(
        mns_reply(404, error_xml(code)), mns_reply(404, error_xml(code)), mns_reply(404, errors_xml(("b", code)))
    )
    with pytest.raises(CloudError) as caught:
        await talk.queue.hide("a", 5)
    assert caught.value.fault is Fault.GONE
    assert not caught.value.retryable
    assert await talk.queue.delete(["a"]) == (DeleteFailure("a", code, gone=True, retryable=False, detail="m"),)
    assert [failure.handle for failure in await talk.queue.delete(["a", "b"])] == ["b"]


async def test_one_error_for_a_whole_batch_decides_nothing_about_its_entries(start: Any, mns_reply: Any) -> None:
    """A MessageNotExist for a batch of two is raised: neither message counts as deleted."""
    talk = await start(mns_reply(404, error_xml("MessageNotExist")))
    with pytest.raises(CloudError) as caught:
        await talk.queue.delete(["a", "b"])
    assert caught.value.fault is Fault.GONE


@pytest.mark.parametrize(
    ("code", "gone", "retryable"),
    [
        ("MessageNotExist", True, False),
        ("ReceiptHandleError", True, False),
        ("InternalServerError", False, True),
        ("TooManyRequests", False, True),
        ("NewWord", False, True),
        ("AccessDenied", False, False),
    ],
)
async def test_each_entry_of_a_delete(start: Any, mns_reply: Any, code: str, gone: bool, retryable: bool) -> None:  # noqa: FBT001 - a row of the table
    """Of a batch only the named entries failed, each gone, retryable or neither."""
    talk = await start(mns_reply(404, errors_xml(("b&amp;", code))))
    (failure,) = await talk.queue.delete(["a", "b&", "c"])
    assert (failure.handle, failure.code, failure.gone, failure.retryable) == ("b&", code, gone, retryable)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize("request_id", ["R", None])
async def test_a_list_of_failed_deletes_counts_under_any_refusing_status(
    start: Any, mns_reply: Any, status: int, request_id: str | None
) -> None:
    """It names handles of ours, so it is MNS's, with or without a request id; a handle named twice failed once."""
    body = errors_xml(("b", "InternalError"), ("b", "MessageNotExist"))
    talk = await start(mns_reply(status, body, request_id=request_id))
    (failure,) = await talk.queue.delete(["a", "b", "c"])
    assert (failure.handle, failure.code, failure.retryable) == ("b", "InternalError", True)


NAMESPACES = [' xmlns="http://mns.aliyuncs.com/doc/v1"', " xmlns='http://mns.aliyuncs.com/doc/v1/'", ""]


@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0" encoding="utf-8"?>\n'])
@pytest.mark.parametrize("namespace", NAMESPACES, ids=["no slash", "slash", "none"])
async def test_a_success_without_a_request_id_is_known_by_its_root(
    start: Any, mns_reply: Any, namespace: str, declaration: str
) -> None:
    """The operation's own root element in MNS's namespace is as good as the header."""
    answer = f"{declaration}<Messages{namespace}></Messages>".encode()
    talk = await start(mns_reply(200, answer, request_id=None))
    assert (await talk.queue.receive(1, 0)).messages == []


@pytest.mark.parametrize(
    "body",
    [
        b'<Messages xmlns="http://elsewhere.example/"></Messages>',
        b'<x:Messages xmlns:x="http://elsewhere.example/"></x:Messages>',
        b"<Message></Message>",
        b"<html><Messages></Messages></html>",
        b"a<Messages></Messages>",
        b"",
    ],
)
async def test_another_root_without_a_request_id_is_no_success(start: Any, mns_reply: Any, body: bytes) -> None:
    """Another namespace, another root or a page around it is not MNS's."""
    talk = await start(mns_reply(200, body, request_id=None))
    with pytest.raises(CloudError, match="MNS's own XML") as caught:
        await talk.queue.receive(1, 0)
    assert caught.value.fault is Fault.UNREADABLE


async def test_a_body_that_xml_forbids_hides_no_root(start: Any, mns_reply: Any) -> None:
    """Without a request id, one message's forbidden characters cost neither it nor the others."""
    entry = b"<Message><MessageId>%d</MessageId><MessageBody>%b</MessageBody><ReceiptHandle>1-%d</ReceiptHandle>"
    entry += b"<NextVisibleTime>9999999999000</NextVisibleTime></Message>"
    bodies = (b"a\x0b\xff", b"hello")
    entries = b"".join(entry % (number, body, number) for number, body in enumerate(bodies))
    answer = b'<?xml version="1.0"?>\n<Messages xmlns="http://mns.aliyuncs.com/doc/v1/">%b</Messages>' % entries
    talk = await start(mns_reply(200, answer, request_id=None))
    assert [message.body for message in (await talk.queue.receive(2, 0)).messages] == list(bodies)


async def test_a_204_without_a_request_id_is_known_by_the_version(start: Any, mns_reply: Any) -> None:
    """Where there is no body, MNS's other header will do."""
    talk = await start(mns_reply(204, request_id=None, x_mns_version="2015-06-06"))
    assert await talk.queue.delete(["a"]) == ()


@pytest.mark.parametrize(
    ("visible_ms", "low_s", "high_s"),
    [
        pytest.param("1e400", 40, 59, id="no number"),
        pytest.param("0", 40, 59, id="long ago"),
        pytest.param("-5", 40, 59, id="negative"),
        pytest.param("9" * 17, 59, 60, id="beyond what was asked for"),
        pytest.param("9" * 5000, 40, 59, id="5000 digits"),
    ],
)
async def test_a_renewed_lease_lasts_as_long_as_was_asked_for(
    start: Any, mns_reply: Any, visible_ms: str, low_s: float, high_s: float
) -> None:
    """A NextVisibleTime that can't be true neither ends the lease nor extends it."""
    answer = f"<ChangeVisibility><ReceiptHandle>n</ReceiptHandle><NextVisibleTime>{visible_ms}</NextVisibleTime>"
    talk = await start(mns_reply(200, f"{answer}</ChangeVisibility>".encode()))
    receipt = await talk.queue.hide("h", 60)
    assert low_s < receipt.expires_at - time.monotonic() <= high_s


QUEUE = {
    "QueueName": "q",
    "CreateTime": "1",
    "LastModifyTime": "1",
    "DelaySeconds": "0",
    "MaximumMessageSize": "65536",
    "MessageRetentionPeriod": "345600",
    "VisibilityTimeout": "30",
    "PollingWaitSeconds": "0",
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MessageRetentionPeriod", "9" * 18, 604_800),
        ("MessageRetentionPeriod", "0", 60),
        ("MessageRetentionPeriod", "-9", 60),
        ("CreateTime", "9" * 18, 1 << 33),
        ("ActiveMessages", "-1", 0),
        ("ActiveMessages", "1e400", None),
    ],
)
async def test_a_queues_attributes_stay_in_their_ranges(
    start: Any, mns_reply: Any, name: str, value: str, expected: int | None
) -> None:
    """A value out of range is replaced by the nearest limit."""
    body = "".join(f"<{key}>{text}</{key}>" for key, text in (QUEUE | {name: value}).items())
    talk = await start(mns_reply(200, f"<Queue>{body}</Queue>".encode()))
    found = await talk.queue.attributes()
    assert {
        "MessageRetentionPeriod": found.retention_s,
        "CreateTime": found.created_at,
        "ActiveMessages": found.active_messages,
    }[name] == expected


async def test_an_error_for_a_handle_that_was_not_given(start: Any, mns_reply: Any) -> None:
    """When an entry belongs to no handle, no handle of the batch counts as deleted."""
    talk = await start(mns_reply(404, errors_xml(("someone else's", "InternalError"))))
    with pytest.raises(CloudError, match="for handles that were given") as caught:
        await talk.queue.delete(["a"])
    assert caught.value.fault is Fault.UNREADABLE


async def test_a_delete_sends_the_sdks_xml(start: Any, mns_reply: Any) -> None:
    """All handles are sent in one request, escaped, and 204 means that all are deleted."""
    talk = await start(mns_reply(204))
    assert await talk.queue.delete(["a<", "b"]) == ()
    (asked,) = talk.peer.asked
    assert asked.line == "DELETE /queues/q/messages HTTP/1.1"
    assert b"<ReceiptHandle>a&lt;</ReceiptHandle><ReceiptHandle>b</ReceiptHandle>" in asked.body


async def test_odd_handles_go_into_the_url(start: Any, mns_reply: Any) -> None:
    """Characters that end a query or its value are escaped; those of receipt handles stay."""
    answer = (
        b"<ChangeVisibility><ReceiptHandle>new</ReceiptHandle><NextVisibleTime>%d</NextVisibleTime></ChangeVisibility>"
    )
    talk = await start(mns_reply(200, answer % (int(time.time() + 60) * 1000)))
    receipt = await talk.queue.hide("8-a+/=&#% é", 60)
    assert talk.peer.asked[0].line == (
        "PUT /queues/q/messages?ReceiptHandle=8-a+/=%26%23%25%20%C3%A9&VisibilityTimeout=60 HTTP/1.1"
    )
    assert receipt.handle == "new"
    assert 57 < receipt.expires_at - time.monotonic() <= 60


async def test_a_batch_with_a_broken_entry(start: Any, mns_reply: Any) -> None:
    """A broken entry is a problem of its batch; the other entries are read."""
    body = b"<Messages><Message><MessageId>M</MessageId></Message></Messages>"
    talk = await start(mns_reply(200, body))
    batch = await talk.queue.receive(16, 0)
    assert (list(batch.messages), len(batch.problems)) == ([], 1)
    assert talk.observed == [("BatchReceiveMessage", "ok")]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param("", "it is empty", id="empty"),
        pytest.param(b"\xff", "byte 0 is not UTF-8", id="no text"),
        pytest.param("a\x00", r"character 1 is U\+0000", id="control character"),
        pytest.param("a\ud800", r"character 1 is U\+D800", id="lone surrogate"),
    ],
)
async def test_a_body_that_xml_cannot_carry_is_not_sent(
    start: Any, mns_reply: Any, body: bytes | str, why: str
) -> None:
    """Such a body is refused here, with its place and what to do."""
    talk = await start(mns_reply(204))
    with pytest.raises(CloudError, match=f"{why}.*base64") as caught:
        await talk.queue.send(body)
    assert caught.value.fault is Fault.REQUEST
    assert talk.peer.asked == []


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda queue: queue.receive(0, 0), id="no message"),
        pytest.param(lambda queue: queue.receive(17, 0), id="17 messages"),
        pytest.param(lambda queue: queue.receive(1, 31), id="31 s"),
        pytest.param(lambda queue: queue.delete([]), id="no handle"),
        pytest.param(lambda queue: queue.delete(["a"] * 17), id="17 handles"),
        pytest.param(lambda queue: queue.hide("a", 0), id="0 s"),
        pytest.param(lambda queue: queue.hide("a", 43_201), id="over 12 h"),
        pytest.param(lambda queue: queue.peek(17), id="17 peeked"),
    ],
)
async def test_what_the_service_would_refuse_is_a_bug_here(start: Any, mns_reply: Any, ask: Any) -> None:
    """A number out of its documented range is a ValueError, and nothing is sent."""
    talk = await start(mns_reply(204))
    with pytest.raises(ValueError, match="must be in"):
        await ask(talk.queue)
    assert talk.peer.asked == []


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        ("Throttling", 400, Fault.THROTTLED),
        ("Throttling.User", 400, Fault.THROTTLED),
        ("InvalidTimeStamp.Expired", 400, Fault.CLOCK),
        ("InvalidAccessKeyId.NotFound", 404, Fault.CREDENTIALS),
        ("PermissionDenied.X", 403, Fault.CREDENTIALS),
        ("InvalidIdentity.ServiceDisabled", 400, Fault.CREDENTIALS),
        ("InvalidParameter.JobId", 400, Fault.REQUEST),
        ("NoPermission", 403, Fault.CREDENTIALS),
        ("Odd", 500, Fault.SERVER),
        ("InternalError", 400, Fault.SERVER),
    ],
)
def test_mps_codes(code: str, status: int, fault: Fault) -> None:
    """MPS's codes are classified by their family, unknown ones by their status."""
    assert mps_fault(code, status) is fault


@given(st.text(max_size=20), st.integers(400, 599))
def test_every_code_has_a_fault(code: str, status: int) -> None:
    """Any code and status of a refusal have a fault; a 5xx of an unknown code is the server's."""
    assert mns_fault(f"?{code}", status) in Fault
    assert status < 500 or mns_fault(f"?{code}", status) is Fault.SERVER


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1), min_size=1, max_size=16
    )
)
def test_deletes_are_written_as_the_sdk_writes_them(handles: list[str]) -> None:
    """The body of a batch delete is byte for byte that of the SDK's own encoder."""
    assert handles_xml(handles) == ReceiptHandlesEncoder.encode(handles)
