"""Requests for hosts of this machine and allowed hosts are answered; those of a page in a browser are refused."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from consumer.sandbox import Sandbox
from consumer.sandbox.access import Origins

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8420", "localhost.:1", "films.localhost:8420"),
        *("127.0.0.1", "127.0.0.1:8420", "127.9.9.9:1", "[::1]", "[::1]:8420"),
        *("10.0.0.7:8420", "sandbox", "sandbox:1", "a.films.test:80", ""),
    ],
)
def test_hosts_that_are_answered(host: str) -> None:
    """Loopback names and addresses, the address it listens on and allowed names are answered, with any port."""
    origins = Origins("10.0.0.7", ("Sandbox", "*.films.test"), scheme="http")
    assert origins.refusal({"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.test", "evil.test:8420", "localhost.evil.test", "127.0.0.1.evil.test", "notlocalhost"),
        *("10.0.0.8", "[::2]:8420", "::1x", "user@localhost", "localhost:8420:1", "localhost evil", "films.test"),
    ],
)
def test_hosts_that_are_refused(host: str) -> None:
    """Any other host is refused by a text that names it and the way to allow it."""
    reason = Origins("10.0.0.7", ("*.films.test",), scheme="http").refusal({"host": host})
    assert reason is not None
    assert f"'{host}'" in reason
    assert "--allow-host" in reason


@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        pytest.param({"origin": "http://127.0.0.1:8420"}, True, id="its own origin"),
        pytest.param({"origin": "http://127.0.0.1:3000"}, False, id="another port"),
        pytest.param({"origin": "https://127.0.0.1:8420"}, False, id="another scheme"),
        pytest.param({"origin": "http://evil.test"}, False, id="another host"),
        pytest.param({"origin": "null"}, False, id="an opaque origin"),
        pytest.param({"sec-fetch-site": "cross-site"}, False, id="cross-site"),
        pytest.param({"sec-fetch-site": "same-site"}, False, id="same-site"),
        pytest.param({"sec-fetch-site": "same-origin"}, True, id="same-origin"),
        pytest.param({"sec-fetch-site": "none"}, True, id="typed by its user"),
    ],
)
def test_origins(headers: dict[str, str], is_answered: bool) -> None:  # noqa: FBT001 - a parametrized case
    """A page of another origin is refused, whatever its host header says."""
    reason = Origins("127.0.0.1", (), scheme="http").refusal({"host": "127.0.0.1:8420", **headers})
    assert (reason is None) == is_answered


@pytest.mark.parametrize("headers", [{"Host": "evil.test"}, {"Origin": "http://evil.test"}], ids=["host", "origin"])
async def test_refused_over_the_wire(sandbox: Sandbox, ask: Ask, texts: Texts, headers: dict[str, str]) -> None:
    """MNS, MPS and the control API refuse a page in their own forms, and nothing happens."""
    status, _, body = await ask("PUT", "/queues/q", headers=headers)
    assert (status, texts(body, "Code")) == (403, ["AccessDenied"])
    assert "evil.test" in texts(body, "Message")[0]
    status, got, body = await ask("POST", "/", headers={**headers, "x-acs-action": "QueryIProductionJob"})
    assert (status, got["content-type"]) == (403, "application/json;charset=utf-8")
    status, got, body = await ask("POST", "/_sandbox/faults", b'{"kind": "drop"}', headers=headers)
    assert (status, got["content-type"], b"evil.test" in body) == (403, "application/json;charset=utf-8", True)
    assert sandbox.account.all() == []
    assert sandbox.faults.current() == []


async def sent(port: int, request: bytes) -> bytes:
    """Send one request; return its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def test_a_host_can_be_allowed(write_signed: Callable[..., bytes]) -> None:
    """An allowed host name is answered over the wire, as a vendor's client sends it behind a name of its own."""
    host = "1234567890123456.mns.cn-hangzhou.aliyuncs.com"
    async with Sandbox.on_free_port(allowed_hosts=("*.mns.cn-hangzhou.aliyuncs.com",)) as sandbox:
        sandbox.account.ensure("q")
        answers = [
            await sent(sandbox.port, write_signed("GET", "/queues/q", headers={"Host": name}))
            for name in (host, "mns.cn-hangzhou.aliyuncs.com")
        ]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200", b"HTTP/1.1 403"]
