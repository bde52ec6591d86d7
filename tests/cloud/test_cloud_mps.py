"""Asking MPS and submitting to it, and the pace of both."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from consumer.cloud.faults import is_about_the_job
from consumer.cloud.mps import RateLimiter
from consumer.errors import CloudError, Fault
from tests.in_memory.clock import Clock


def json_reply(mns_reply: Any, status: int, value: object) -> Any:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return mns_reply(status, body, request_id=None, Content_Type="application/json")


async def test_what_a_query_sends(start: Any, mns_reply: Any) -> None:
    """A query is an ACS3-signed POST with its parameter in the query and no body, the token in its header."""
    talk = await start(json_reply(mns_reply, 200, {"RequestId": "R", "JobId": "j"}))
    answer = await talk.mps.query("j/ +é")
    (asked,) = talk.peer.asked
    assert asked.line == "POST /?JobId=j%2F%20%2B%C3%A9 HTTP/1.1"
    assert asked.body == b""
    assert asked.headers["x-acs-action"] == "queryiproductionjob"
    assert asked.headers["x-acs-security-token"] == "hush-hush-token"
    assert asked.headers["authorization"].startswith("acs3-hmac-sha256 credential=hush-hush-id,signedheaders=accept;")
    assert (answer.found, answer.job_id, answer.state) == (False, "j", None)
    assert talk.observed == [("QueryIProductionJob", "ok")]


async def test_a_result_is_text_whatever_it_came_as(start: Any, mns_reply: Any) -> None:
    """A result stays the text that it is; an object is written as text."""
    known = {"RequestId": "R", "JobId": "j", "State": "Success", "FunctionName": "Cover"}
    talk = await start(
        json_reply(mns_reply, 200, known | {"Result": '{"Code": 1}'}),
        json_reply(mns_reply, 200, known | {"Result": {"Code": "é"}}),
        json_reply(mns_reply, 200, {"RequestId": "R", "JobId": "j", "Result": {"a": 1}}),
    )
    first, second = await talk.mps.query("j"), await talk.mps.query("j")
    submitted = await talk.mps.submit({"FunctionName": "Cover", "JobParams": "{}", "UserData": ""})
    assert (first.result, first.found, first.state) == ('{"Code": 1}', True, "Success")
    assert second.result == '{"Code": "é"}'
    assert (submitted.job_id, submitted.request_id) == ("j", "R")
    sent = dict(parse_qsl(talk.peer.asked[2].line.split()[1].partition("?")[2], keep_blank_values=True))
    assert sent == {"FunctionName": "Cover", "JobParams": "{}", "UserData": ""}


@pytest.mark.parametrize(
    ("status", "value"),
    [
        pytest.param(200, b"<html>Welcome</html>", id="200 HTML"),
        pytest.param(200, {"JobId": "j"}, id="no RequestId"),
        pytest.param(200, ["RequestId"], id="no object"),
        pytest.param(200, b"[" * 100_000, id="nested for ever"),
        pytest.param(302, b"", id="redirect"),
        pytest.param(404, b"<html/>", id="404 HTML"),
        pytest.param(400, {"Code": "Throttling"}, id="an error without RequestId"),
        pytest.param(204, b"", id="204"),
    ],
)
async def test_what_is_not_mps_is_never_success(start: Any, mns_reply: Any, status: int, value: object) -> None:
    """Anything but JSON with a request id is unreadable, and asked only once."""
    talk = await start(json_reply(mns_reply, status, value))
    with pytest.raises(CloudError, match="expected status 200") as caught:
        await talk.mps.query("j")
    assert caught.value.fault is Fault.UNREADABLE
    assert len(talk.peer.asked) == 1


async def test_a_submission_without_a_job_id_is_unreadable(start: Any, mns_reply: Any) -> None:
    """A submission must bring a JobId."""
    talk = await start(json_reply(mns_reply, 200, {"RequestId": "R"}))
    with pytest.raises(CloudError, match="JobId") as caught:
        await talk.mps.submit({"FunctionName": "Cover", "JobParams": "{}"})
    assert caught.value.fault is Fault.UNREADABLE


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        pytest.param(400, {"Code": "Throttling.User"}, (Fault.THROTTLED, "Throttling.User"), id="throttled"),
        pytest.param(403, {"Code": "PermissionDenied.X"}, (Fault.CREDENTIALS, "PermissionDenied.X"), id="no right"),
        pytest.param(400, {"Code": "InvalidParameter.JobId"}, (Fault.REQUEST, "InvalidParameter.JobId"), id="bad id"),
        pytest.param(500, {"Code": "InternalError"}, (Fault.SERVER, "InternalError"), id="500"),
        pytest.param(502, b"<html/>", (Fault.SERVER, "Http502"), id="502 HTML"),
        pytest.param(429, b"", (Fault.THROTTLED, "Http429"), id="429"),
        pytest.param(400, {"Code": "Forbidden.RAM"}, (Fault.CREDENTIALS, "Forbidden.RAM"), id="RAM with 400"),
        pytest.param(400, {"Code": "NoPermissionX"}, (Fault.CREDENTIALS, "NoPermissionX"), id="no permission with 400"),
        pytest.param(
            400, {"Code": "MissingSecurityToken"}, (Fault.CREDENTIALS, "MissingSecurityToken"), id="no token with 400"
        ),
        pytest.param(
            403,
            {"Code": "PermissionDenied.ResourceQuotaExceed"},
            (Fault.THROTTLED, "PermissionDenied.ResourceQuotaExceed"),
            id="quota",
        ),
        pytest.param(
            403, {"Code": "RequestsTooFrequent"}, (Fault.THROTTLED, "RequestsTooFrequent"), id="throttled with 403"
        ),
        pytest.param(
            403,
            {"Code": "InvalidIdentity.ServiceDisabled"},
            (Fault.CREDENTIALS, "InvalidIdentity.ServiceDisabled"),
            id="not opened",
        ),
        pytest.param(
            403, {"Code": "InvalidParameter.JobNotFound"}, (Fault.REQUEST, "InvalidParameter.JobNotFound"), id="no job"
        ),
        pytest.param(
            404, {"Code": "InvalidAction.NotFound"}, (Fault.REQUEST, "InvalidAction.NotFound"), id="no such action"
        ),
    ],
)
async def test_each_refusal_has_its_fault(
    start: Any, mns_reply: Any, status: int, value: Any, expected: tuple[Fault, str]
) -> None:
    """The code decides the fault, and only throttling slows the account down."""
    body = value | {"RequestId": "R", "HostId": "h", "Message": "m"} if isinstance(value, dict) else value
    talk = await start(json_reply(mns_reply, status, body))
    with pytest.raises(CloudError) as caught:
        await talk.mps.query("j")
    assert (caught.value.fault, caught.value.code) == expected
    assert caught.value.target == "127.0.0.1"
    assert (talk.limiter.rate_per_s < 60) is (expected[0] is Fault.THROTTLED)


@pytest.mark.parametrize(
    ("detail", "named"),
    [
        pytest.param({"AuthAction": "mts:Query*"}, "mts:QueryIProductionJob", id="a pattern"),
        pytest.param({"AuthAction": "mts:QueryJobList", "PolicyType": "x"}, "mts:QueryJobList", id="MPS names another"),
        pytest.param({"AuthAction": "a:b\n\x1b[2J"}, "mts:QueryIProductionJob", id="a text that is no action"),
        pytest.param("text", "mts:QueryIProductionJob", id="no object"),
        pytest.param(None, "mts:QueryIProductionJob", id="none"),
    ],
)
@pytest.mark.parametrize("status", [400, 403])
async def test_a_denied_query_names_the_action(
    start: Any, mns_reply: Any, status: int, detail: object, named: str
) -> None:
    """The missing action is the one that MPS names, else the one that the call needs; no other text is taken over."""
    body = {"RequestId": "R", "Code": "Forbidden.RAM", "Message": "no.", "AccessDeniedDetail": detail}
    talk = await start(json_reply(mns_reply, status, body))
    with pytest.raises(CloudError) as caught:
        await talk.mps.query("j")
    assert f"Forbidden.RAM: no; grant {named} to the user or role of these keys" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("AccessDenied", 403, "account or the region in the NotifyUrl is wrong"),
        ("AccessDeniedByRamPolicy", 403, "grant mns:ChangeMessageVisibility"),
        ("SomethingNew", 403, "check the keys, or grant mns:ChangeMessageVisibility"),
        ("NoPermission", 400, "grant mns:ChangeMessageVisibility"),
        ("InvalidAccessKeyId", 403, "check the AccessKey id"),
        ("SignatureDoesNotMatch", 403, "check the AccessKey secret"),
    ],
)
async def test_a_denied_call_to_mns_names_the_action(
    start: Any, mns_reply: Any, code: str, status: int, advice: str
) -> None:
    """What MNS refuses for the keys or their rights says what to do, and only a missing right names an action."""
    body = f"<Error><Code>{code}</Code><Message>m</Message><RequestId>R</RequestId><HostId>h</HostId></Error>".encode()
    talk = await start(mns_reply(status, body))
    with pytest.raises(CloudError) as caught:
        await talk.queue.hide("8-x", 10)
    assert caught.value.fault is Fault.CREDENTIALS
    assert advice in caught.value.detail
    assert ("mns:" in caught.value.detail) is not advice.startswith("check the AccessKey")


def test_which_refusals_are_about_the_job() -> None:
    """Only a refused JobId is about the job: no unknown function, and no other code."""
    about = ["InvalidParameter", "InvalidParameter.JobNotFound", "InvalidParameter.JobId", "MissingJobId"]
    others = ["InvalidParameter.FunctionNotSupported", "InvalidAction.NotFound", "Forbidden.RAM", "MissingParameter"]
    assert [code for code in (*about, *others) if is_about_the_job(code)] == about


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        pytest.param("", None, id="none"),
        pytest.param("<DlqPolicy/>", None, id="empty"),
        pytest.param('<DlqPolicy>{"Enabled":true}</DlqPolicy>', '{"Enabled":true}', id="JSON"),
        pytest.param(
            "<DlqPolicy><Enabled>true</Enabled><MaxReceiveCount>3</MaxReceiveCount></DlqPolicy>",
            "Enabled=true MaxReceiveCount=3",
            id="elements",
        ),
    ],
)
async def test_the_dead_letter_policy_of_a_queue(start: Any, mns_reply: Any, inner: str, expected: str | None) -> None:
    """A DlqPolicy among a queue's attributes is read in whatever form it comes."""
    numbers = ("CreateTime", "LastModifyTime", "DelaySeconds", "MaximumMessageSize", "MessageRetentionPeriod")
    more = "".join(f"<{name}>1</{name}>" for name in (*numbers, "VisibilityTimeout", "PollingWaitSeconds"))
    talk = await start(mns_reply(200, f"<Queue><QueueName>q</QueueName>{more}{inner}</Queue>".encode()))
    assert (await talk.queue.attributes()).dlq_policy == expected


async def test_warming_up_loads_the_signer(start: Any, mns_reply: Any) -> None:
    """After warming up the signer is there, and doing it again costs nothing."""
    talk = await start(json_reply(mns_reply, 200, {"RequestId": "R", "JobId": "j"}))
    await talk.mps.warm_up()
    took_s = []
    for _ in range(5):
        began = time.monotonic()
        await talk.mps.warm_up()
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.01


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves, for ``on_clock``."""
    made = Clock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def on_clock(clock: Clock) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a coroutine by that clock."""
    with asyncio.Runner(loop_factory=clock.make_loop) as runner:
        yield runner.run


async def calls(limiter: RateLimiter, number: int, clock: Clock) -> list[float]:
    """Let that many concurrent callers through, each of which works for 2 ms; give the times at which they went."""
    times: list[float] = []

    async def one() -> None:
        await limiter.wait()
        times.append(time.monotonic())
        clock.now_s += 0.002

    await asyncio.gather(*(one() for _ in range(number)))
    return times


def test_the_pace_is_even_below_the_limit_and_near_it(clock: Clock, on_clock: Callable[..., Any]) -> None:
    """At 100 a second, no window of a second has more than 100, and at least 95 a second go through."""
    times = on_clock(calls(RateLimiter(100), 300, clock))
    assert max(sum(1 for t in times if start <= t < start + 1) for start in times) <= 100
    assert 299 / (times[-1] - times[0]) >= 95


@pytest.mark.usefixtures("clock")
def test_callers_go_in_the_order_in_which_they_asked(on_clock: Callable[..., Any]) -> None:
    """First come, first served, also past a caller that is cancelled while it waits, which costs no turn."""
    limiter = RateLimiter(50)
    order: list[int] = []

    async def one(number: int) -> None:
        await limiter.wait()
        order.append(number)

    async def thirty() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(30)]
        await asyncio.sleep(0)
        for number in range(5, 25):
            tasks[number].cancel()
        await asyncio.wait(tasks)

    began = time.monotonic()
    on_clock(thirty())
    assert order == [*range(5), *range(25, 30)]
    assert time.monotonic() - began < 0.2


def test_a_stalled_loop_makes_no_burst(clock: Clock, on_clock: Callable[..., Any]) -> None:
    """Turns missed while the loop stood still are lost, not made good at once."""

    async def stalled() -> tuple[float, list[float]]:
        task = asyncio.create_task(calls(RateLimiter(100), 40, clock))
        await asyncio.sleep(0.05)
        clock.now_s += 0.2
        resumed = time.monotonic()
        return resumed, await task

    resumed, times = on_clock(stalled())
    assert sum(1 for t in times if resumed <= t < resumed + 0.1) <= 11


async def test_throttling_halves_once_and_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many throttled answers within a second halve the rate once; it is whole again after 60 s, never zero."""
    limiter = RateLimiter(100)
    now = 1000.0
    monkeypatch.setattr("consumer.cloud.mps.time.monotonic", lambda: now)
    for _ in range(10):
        limiter.throttled()
    assert limiter.rate_per_s == pytest.approx(48.5)
    now += 30
    assert limiter.rate_per_s == pytest.approx(72.75)
    now += 30
    assert limiter.rate_per_s == pytest.approx(97)
    for _ in range(20):
        limiter.throttled()
        now += 1.01
    assert 97 / 32 <= limiter.rate_per_s < 7
    now += 1000
    assert limiter.rate_per_s == pytest.approx(97)
