"""The signatures of both services, their dates, digests and tokens."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import pytest

from consumer.sandbox import Sandbox
from consumer.sandbox.access import Keys, RpcVerifier, classic_signature, v4_signature, verify_mns
from consumer.sandbox.protocol import MnsError, Request, RpcError

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]


def test_the_documented_vector() -> None:
    """The classic signature of the vendor's documented example is the printed one."""
    sent = Request("GET", "/MyQueue", {"x-mns-version": "2015-06-06", "date": "Thu, 09 Jul 2015 03:01:34 GMT"}, b"")
    signature = classic_signature(sent, "TestAccessSecret", sent.headers["date"])
    assert signature == "uwx3yeWoILzgmvesW0BQSgfM7b8="


@pytest.mark.parametrize("empty", ["Key", "Key="])
def test_v4_step_by_step(empty: str) -> None:
    """V4: sorted lower-case query keys, escaped values, an empty one as its bare key, headers, a chain of four keys."""
    headers = {"content-type": "text/xml", "x-mns-version": "2015-06-06", "host": "h", "date": "ignored here"}
    sent = Request("GET", f"/queues/q 1/messages?Wait=1&a=x+/=&{empty}", headers, b"")
    canonical = (
        "GET\n/queues/q%201/messages\na=x%2B%2F%3D&key&wait=1\ncontent-type:text/xml\nx-mns-version:2015-06-06\n\n"
    )
    text = f"MNS4-HMAC-SHA256\n20250603T105235Z\n20250603/r/mns/aliyun_v4_request\n{canonical}"
    key = b"aliyun_v4secret"
    for part in (b"20250603", b"r", b"mns", b"aliyun_v4_request"):
        key = hmac.digest(key, part, "sha256")
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    assert v4_signature(sent, "secret", 1748947955, "20250603", "r") == expected


@pytest.fixture
async def with_queue(sandbox: Sandbox) -> Sandbox:
    sandbox.account.ensure("q")
    return sandbox


def v4_request(sent: Request) -> Mapping[str, str]:
    day = time.strftime("%Y%m%d", time.gmtime())
    now_s = float(int(time.time()))
    headers = {**sent.headers, "date": formatdate(now_s, usegmt=True)}
    signature = v4_signature(Request(sent.method, sent.target, headers), "sandbox", now_s, day, "cn-hangzhou")
    scope = f"sandbox/{day}/cn-hangzhou/mns/aliyun_v4_request"
    return {**headers, "authorization": f"MNS4-HMAC-SHA256 Credential={scope},Signature={signature}"}


async def test_v4_over_the_wire(with_queue: Sandbox, ask: Ask, texts: Texts) -> None:
    """A V4 signature is taken, and refused when the target is another than was signed."""
    target = "/queues/q/messages?waitseconds=0"
    headers = v4_request(Request("GET", target, {"x-mns-version": "2015-06-06"}, b""))
    for asked, code in ((target, "MessageNotExist"), (target + "&x=1", "SignatureDoesNotMatch")):
        _, _, body = await ask("GET", asked, headers=headers, leave_out=("Authorization", "Date"))
        assert texts(body, "Code") == [code]


@pytest.mark.parametrize(
    ("headers", "leave_out", "status", "code"),
    [
        pytest.param({}, ("Authorization",), 400, "MissingAuthorizationHeader", id="no Authorization"),
        pytest.param({"Authorization": "Basic x"}, (), 400, "InvalidAuthorizationHeader", id="another scheme"),
        pytest.param({"Authorization": "MNS x"}, (), 400, "InvalidAuthorizationHeader", id="no signature"),
        pytest.param(
            {"Authorization": "MNS4-HMAC-SHA256 Credential=x"}, (), 400, "InvalidAuthorizationHeader", id="half a V4"
        ),
        pytest.param({"Authorization": "MNS stranger:x"}, (), 403, "InvalidAccessKeyId", id="an unknown key"),
        pytest.param({"Authorization": "MNS sandbox:x"}, (), 403, "SignatureDoesNotMatch", id="another secret"),
        pytest.param({}, ("Date",), 400, "MissingDateHeader", id="no Date"),
        pytest.param({"Date": "yesterday"}, (), 400, "InvalidDateHeader", id="no date in Date"),
        pytest.param({"Date": formatdate(time.time() - 960, usegmt=True)}, (), 408, "TimeExpired", id="16 min late"),
        pytest.param({"Date": formatdate(time.time() + 3600, usegmt=True)}, (), 408, "TimeExpired", id="an hour early"),
        pytest.param(
            {"Content-MD5": base64.b64encode(b"0" * 16).decode()}, (), 400, "InvalidDigest", id="a wrong digest"
        ),
        pytest.param({"Content-Type": "text/plain; x=1"}, (), 404, "MessageNotExist", id="any Content-Type"),
        pytest.param({"X-MNS-Any": "x"}, (), 404, "MessageNotExist", id="headers of its own"),
        pytest.param({"security-token": "x"}, (), 404, "MessageNotExist", id="a token is not signed"),
    ],
)
async def test_authorization(  # noqa: PLR0917 - a table
    with_queue: Sandbox,
    ask: Ask,
    texts: Texts,
    headers: dict[str, str],
    leave_out: tuple[str, ...],
    status: int,
    code: str,
) -> None:
    """Each way of being wrong has its own documented status and code."""
    got, _, body = await ask("GET", "/queues/q/messages", headers=headers, leave_out=leave_out)
    assert (got, texts(body, "Code")) == (status, [code])


@pytest.mark.parametrize("is_line_empty", [False, True], ids=["as the Date line", "with an empty Date line"])
async def test_x_mns_date_stands_in_for_date(is_line_empty: bool) -> None:  # noqa: FBT001 - a parametrized case
    """Without Date, x-mns-date is checked in its place, whichever the client put on the Date line."""
    now_s = int(time.time())
    date = formatdate(now_s, usegmt=True)
    sent = Request("GET", "/queues/q", {"x-mns-date": date}, b"")
    signature = classic_signature(sent, "s", "" if is_line_empty else date)
    verify_mns(
        Request("GET", "/queues/q", {**sent.headers, "authorization": f"MNS a:{signature}"}, b""),
        {"a": Keys("a", "s", None)},
        now_s,
    )


@pytest.mark.parametrize("kind", ["hex", "raw", "none"])
@pytest.mark.parametrize("body", [b"<Message><MessageBody>x</MessageBody></Message>", b""], ids=["body", "empty"])
async def test_both_content_md5_conventions(with_queue: Sandbox, ask: Ask, kind: str, body: bytes) -> None:
    """Content-MD5 may be base64 of the digest, of its hex text, or absent, also for an empty body."""
    digest = hashlib.md5(body, usedforsecurity=False)
    value = {"hex": digest.hexdigest().encode(), "raw": digest.digest(), "none": b""}[kind]
    headers = {"Content-MD5": base64.b64encode(value).decode()} if value else {"Content-MD5": ""}
    method, target = ("POST", "/queues/q/messages") if body else ("GET", "/queues/q")
    leave_out = () if value else ("Content-MD5",)
    assert (await ask(method, target, body, headers=headers, leave_out=leave_out))[0] in (200, 201)


async def test_sts_token_must_match() -> None:
    """With a security token set, a request without it or with another is refused."""
    keys = {"a": Keys("a", "s", "token")}
    now_s = time.time()
    headers = {"date": formatdate(now_s, usegmt=True)}
    sent = Request("GET", "/queues", headers, b"")
    authorization = f"MNS a:{classic_signature(sent, 's', headers['date'])}"
    verify_mns(
        Request("GET", "/queues", {**headers, "authorization": authorization, "security-token": "token"}, b""),
        keys,
        now_s,
    )
    for token in ({}, {"security-token": "other"}):
        with pytest.raises(MnsError, match="InvalidAccessKeyId"):
            verify_mns(Request("GET", "/queues", {**headers, "authorization": authorization, **token}), keys, now_s)


async def test_signatures_can_be_left_unchecked(write_signed: Callable[..., bytes]) -> None:
    """With verify_signatures off any request is taken."""
    async with Sandbox.on_free_port(verify_signatures=False) as sandbox:
        reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
        writer.write(write_signed("GET", "/queues", leave_out=("Authorization", "Date")))
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


# MPS: the newer ACS3 is tried by the vendor's client in test_sandbox_jobs.py; here are its refusals, and the older.


def rpc(action: str, method: str = "GET", *, secret: str | None = None, **parameters: str) -> dict[str, str]:
    every = {
        "Action": action,
        "Version": "2014-06-18",
        "AccessKeyId": "sandbox",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": f"{time.perf_counter_ns()}",
        "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **parameters,
    }
    query = "&".join(f"{quote(name, safe='~')}={quote(every[name], safe='~')}" for name in sorted(every))
    text = f"{method}&%2F&{quote(query, safe='~')}"
    every["Signature"] = base64.b64encode(
        hmac.digest(f"{secret or 'sandbox'}&".encode(), text.encode(), "sha1")
    ).decode()
    return every


def written(parameters: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe='~')}" for name, value in parameters.items())


def code_of(reply: Reply) -> tuple[int, Any]:
    body = json.loads(reply[2])
    return reply[0], body.get("Code", "")


async def test_the_older_query_signature(ask: Ask) -> None:
    """A query signed by HMAC-SHA1 is taken, in the URL as well as in a form."""
    parameters = rpc("QueryIProductionJob", JobId="a b+c")
    assert code_of(await ask("GET", f"/?{written(parameters)}")) == (200, "")
    form = written(rpc("QueryIProductionJob", "POST", JobId="x")).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert code_of(await ask("POST", "/", form, headers=headers)) == (200, "")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"AccessKeyId": "stranger"}, (404, "InvalidAccessKeyId.NotFound"), id="an unknown key"),
        pytest.param({"secret": "other"}, (400, "SignatureDoesNotMatch"), id="another secret"),
        pytest.param({"Timestamp": "2020-01-01T00:00:00Z"}, (400, "InvalidTimeStamp.Expired"), id="an old date"),
        pytest.param({"Timestamp": "now"}, (400, "InvalidTimeStamp.Format"), id="no date"),
        pytest.param({"SignatureNonce": ""}, (400, "MissingSignatureNonce"), id="no nonce"),
        pytest.param({"Version": "2020-01-01"}, (404, "InvalidAction.NotFound"), id="another version"),
        pytest.param({"action": "ListJob"}, (404, "InvalidAction.NotFound"), id="another action"),
    ],
)
async def test_mps_refusals(ask: Ask, changed: dict[str, str], expected: tuple[int, str]) -> None:
    """Each way of being wrong has its code, in MPS's own JSON."""
    how = {"action": "QueryIProductionJob", "JobId": "x", **changed}
    assert code_of(await ask("GET", f"/?{written(rpc(**how))}")) == expected


async def test_a_nonce_is_taken_once(ask: Ask) -> None:
    """The same signed request sent again is refused, so hidden re-sending shows."""
    target = f"/?{written(rpc('QueryIProductionJob', JobId='x'))}"
    assert code_of(await ask("GET", target)) == (200, "")
    assert code_of(await ask("GET", target)) == (400, "SignatureNonceUsed")


async def test_mps_without_any_signature(ask: Ask) -> None:
    """A request without ACS3 and without a signed query says what was expected."""
    reply = await ask("POST", "/", headers={"x-acs-action": "QueryIProductionJob"}, leave_out=("Authorization",))
    assert code_of(reply) == (400, "IncompleteSignature")


async def test_acs3_covers_the_body(ask: Ask) -> None:
    """An ACS3 request whose content digest is not its body's is refused."""
    headers = {
        "x-acs-action": "QueryIProductionJob",
        "x-acs-content-sha256": "0" * 64,
        "Authorization": f"ACS3-HMAC-SHA256 Credential=sandbox,SignedHeaders=host,Signature={'0' * 64}",
    }
    assert code_of(await ask("POST", "/", headers=headers)) == (400, "SignatureDoesNotMatch")


async def test_mps_sts_token_must_match() -> None:
    """With a security token set, MPS too refuses a request without it or with another."""
    for token, code in (({}, "MissingSecurityToken"), ({"SecurityToken": "u"}, "InvalidSecurityToken")):
        parameters = rpc("QueryIProductionJob", JobId="x", **token)
        with pytest.raises(RpcError, match=code):
            RpcVerifier({"sandbox": Keys("sandbox", "sandbox", "t")}).verify(
                Request("GET", "/", {}, b""), parameters, time.time()
            )


async def test_a_wrong_mps_signature_is_answered_with_the_text_to_sign(ask: Ask) -> None:
    """The error contains the server's string to sign: clients compare it with theirs, and some fail without a colon."""
    parameters = rpc("QueryIProductionJob", JobId="x", secret="other")
    _, _, body = await ask("GET", f"/?{written(parameters)}")
    given = {name: value for name, value in parameters.items() if name != "Signature"}
    query = "&".join(f"{name}={quote(given[name], safe='~')}" for name in sorted(given))
    message = json.loads(body)["Message"]
    assert message.partition("server string to sign is:")[2] == f"GET&%2F&{quote(query, safe='~')}"


async def test_mps_answers_in_xml(ask: Ask, texts: Texts) -> None:
    """A request with Format=XML is answered in XML, results and refusals alike."""
    parameters = rpc("QueryIProductionJob", JobId="<x>", Format="XML")
    status, headers, body = await ask("GET", f"/?{written(parameters)}")
    assert (status, headers["content-type"]) == (200, "text/xml;charset=utf-8")
    assert body.startswith(b"<?xml version='1.0' encoding='UTF-8'?><QueryIProductionJobResponse>")
    assert texts(body, "JobId") == ["&lt;x&gt;"]
    status, _, body = await ask("GET", f"/?{written(rpc('QueryIProductionJob', Format='xml'))}")
    assert (status, texts(body, "Code")) == (400, ["MissingJobId"])
    assert re.fullmatch(rb"<\?xml [^>]+><Error><RequestId>.+</HostId><Code>.+</Message></Error>", body)
