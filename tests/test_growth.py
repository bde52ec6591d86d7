"""No text from outside costs more than in proportion to its length: each reader is timed on adversarial families.

A quadratic reader blocks the event loop for seconds on a text that a queue or a server can send. Each family is a
piece repeated up to a length, as it is and inside the frames that lead deep into a reader. A reader that is quick on a
long text is not looked at further. One that isn't is timed at a length and at four times it, by the process's own clock
and the least of several tries, so that a busy machine changes little: linear is 4, quadratic is 16.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import pytest

from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.faults import cut, describe
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps, RateLimiter
from consumer.cloud.pool import Arrival, HttpAnswer, Pool, ServerClock, _parsed
from consumer.errors import CloudError
from consumer.message.envelope import read_text, unwrap
from consumer.message.notification import Notification, decode, decode_user_data, ledger_key, message_key
from consumer.message.result import read_result
from consumer.message.strict_json import Undecodable, parse, parse_container, storable
from consumer.notify_url import NotifyUrl, NotifyUrlError
from consumer.ops.logs import processors, render
from consumer.ops.sanitize import Secrets
from consumer.store import rows
from tests.untraced import untraced

LENGTH: Final = 12_000
QUICK_S: Final = 0.0015
"""What is below this at ``LENGTH`` is quick: a quadratic reader would take a hundred times as long."""
LENIENT: Final = 8.0

PIECES: Final = (
    *(" ", "\n", "<", ">", "[", "{", '"', "'", "\\", "&", "%", "A", "7", "-", ":", ",", "=", "/", ".", "|", "#"),
    *("\u4e2d", "\ud800", "\0", "\x1b", "\x0b"),
    *("<Message>", "</Message>", "<Message></Message>", "<Message", "</Messages>", "<Messages>", "<a>", "<a/>", "</a>"),
    *("<a><b>", "<MessageBody>", "<MessageId>1</MessageId>", "<![CDATA[", "]]>", "<![CDATA[]]>", "<!--", "<?", "?>"),
    *("&amp;", "&#", "&#1", "&#x", "<Error>", "<Error><ReceiptHandle>h</ReceiptHandle></Error>", ' a="b"'),
    *(" xmlns:a='b'",),
    *('{"a":', '{"a":[', '"a":1,', "[[", "[]", '\\"', "\\\\", "\\u0000", "\\ud800", '"\\', "1e", "0.", '{"a":1},'),
    *("oss://a.oss-", ".oss-a", ".aliyuncs.com", "hush-hush-secre", "hush-hush-secret", "Thu, ", "-0000", "09 Jul "),
    *('{"url":"a"},', "%41", "://", "=\n", "AAAA", "AAAA\n", "<Notification>", "<TopicName>a</TopicName>"),
)
FRAMES: Final = {
    "plain": "{}",
    "messages": "<Messages>{}</Messages>",
    "before": "{}</Messages>",
    "after": "<Messages></Messages>{}",
    "root": "<Messages{}></Messages>",
    "entry": "<Messages><Message>{}</Message></Messages>",
    "broken body": "<Messages><Message><MessageBody>\x0b{}</MessageBody></Message></Messages>",
    "broken entry": "<Messages><Message>\x0b{}</Message></Messages>",
    "cdata": "<Messages><Message><MessageBody><![CDATA[\x0b{}]]></MessageBody></Message></Messages>",
    "errors": "<Errors>{}</Errors>",
    "fields": "<Error>{}</Error>",
    "topic": "<Notification><TopicName>a</TopicName><Message>{}</Message></Notification>",
    "array": "[{}]",
    "object": '{{"a":"b",{}}}',
    "string": '{{"FunctionName":"Cover","JobId":"{}","State":"Success","RequestId":"r"}}',
    "escaped": '{{\\"a\\":\\"{}\\"}}',
}
XML: Final = ("plain", "messages", "before", "after", "root", "entry", "broken body", "broken entry", "cdata")
JSON: Final = ("plain", "array", "string")
LAYERED: Final = ("plain", "object", "escaped")


class AnyAnswer:
    """A pool whose every answer is ``body``."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.headers = {"x-mns-request-id": "R"}

    async def ask(self, *_: object, **__: object) -> HttpAnswer:
        """Give the answer."""
        arrival = Arrival(monotonic=0.0, server_s=1_700_000_000.0)
        return HttpAnswer(self.status, self.headers, self.body, 0.0, arrival, 0.0)


LOOP: Final = asyncio.Runner()
POOL: Final = AnyAnswer()
SOURCE: Final = StaticCredentials(Keys("id", "hush-hush-secret"))
QUEUE: Final = MnsQueue(endpoint="http://h", queue="q", credentials=SOURCE, pool=cast("Pool", POOL))
MPS: Final = Mps(endpoint="http://h", credentials=SOURCE, pool=cast("Pool", POOL), limiter=RateLimiter())
SECRETS: Final = Secrets()
SECRETS.protect("hush-hush-secret")
SECRETS.protect("'\\\"%&<> ")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
CLOCK: Final = ServerClock(1_700_000_000.0, 0.0)


def answered(ask: Callable[[], Any], status: int = 200, *, signed: bool = True) -> Callable[[str], object]:
    """Read a text as the answer of a call."""

    def read(text: str) -> None:
        POOL.body, POOL.status = raw(text), status
        POOL.headers = {"x-mns-request-id": "R"} if signed else {}
        with contextlib.suppress(CloudError):
            LOOP.run(ask())

    return read


def raw(text: str) -> bytes:
    return text.encode(errors="replace")


def message(text: str) -> None:
    found = decode(raw(text))
    if isinstance(found, Notification):
        ledger_key("1/r/q", found, text)
        rows.fit(found.message or "")


def in_user_data(text: str) -> None:
    fields = {"FunctionName": text[:99], "JobId": text, "State": "Success", "UserData": text, "Result": text}
    message(json.dumps(fields))


def result(text: str) -> None:
    read_result(text, "oss://b.oss-cn-x.aliyuncs.com/" + text)
    read_result(json.dumps({"Code": "Success", "Data": text}), text)


def long_bucket(text: str) -> None:
    files = json.dumps([{"url": "a"}] * (len(text) // 14))
    read_result(files, f"oss://{text}.oss-{text}.aliyuncs.com/")


def notify_url(text: str) -> None:
    NotifyUrl.parse(f"mns://{text}.mns.{text}.aliyuncs.com/queues/{text}")


def date(text: str) -> None:
    CLOCK.read(text[:8000], 1_700_000_000.0, 0.0, "q")
    _parsed.cache_clear()


def log_line(*, terminal: bool) -> Callable[[str], object]:
    chain = processors(SECRETS, terminal=terminal)

    def log(text: str) -> None:
        fields = {"event": text, "text": text, "deep": {"a": [text]}, "raw": raw(text), "exc_info": ValueError(text)}
        render(chain, "info", fields)

    return log


def secrets(text: str) -> None:
    SECRETS.mask(text)
    SECRETS.redact(None, "info", {"event": text, "deep": [text]})


READERS: Final[dict[str, tuple[Callable[[str], object], tuple[str, ...]]]] = {
    "receive": (answered(lambda: QUEUE.receive(16, 0)), XML),
    "receive, unsigned": (answered(lambda: QUEUE.receive(16, 0), signed=False), ("plain", "root")),
    "peek": (answered(lambda: QUEUE.peek(16)), ("entry",)),
    "delete": (answered(lambda: QUEUE.delete(["h"]), 404), ("plain", "errors", "fields")),
    "hide": (answered(lambda: QUEUE.hide("h", 9)), ("plain", "root")),
    "attributes": (answered(QUEUE.attributes, 403, signed=False), ("plain", "fields")),
    "MPS": (answered(lambda: MPS.query("j")), ("plain", "string")),
    "MPS, refusing": (answered(lambda: MPS.query("j"), 400), ("string",)),
    "message": (message, (*JSON, "topic")),
    "message in base64": (lambda text: message(base64.b64encode(raw(text)).decode()), ("string", "topic")),
    "fields of a message": (in_user_data, ("plain",)),
    "body": (lambda text: read_text(raw(text)), ("plain",)),
    "envelope": (lambda text: unwrap(raw(text)), ("plain", "topic")),
    "JSON": (parse, JSON),
    "JSON with a layer": (parse_container, LAYERED),
    "result": (result, JSON),
    "result in a long bucket": (long_bucket, ("plain",)),
    "user data": (decode_user_data, LAYERED),
    "key": (lambda text: message_key(text, text), ("plain",)),
    "storable": (storable, ("plain",)),
    "clip": (lambda text: rows.cut(text, 2048), ("plain",)),
    "notify url": (notify_url, ("plain",)),
    "date": (date, ("plain",)),
    "cut": (cut, ("plain",)),
    "described": (lambda text: describe(raw(text)), ("plain",)),
    "secrets": (secrets, ("plain",)),
    "log line": (log_line(terminal=False), ("plain",)),
    "log line for a terminal": (log_line(terminal=True), ("plain",)),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """The time of one reading, whatever it says."""
    began_s = time.process_time()
    with contextlib.suppress(Undecodable, NotifyUrlError):
        read(text)
    return time.process_time() - began_s


def growth(read: Callable[[str], object], text: Callable[[int], str]) -> float:
    """The ratio of times for four times the text; measured again if it seems too high."""
    short, long = text(LENGTH // 2), text(2 * LENGTH)
    short_s = long_s = math.inf
    for _ in range(5):
        short_s, long_s = min(short_s, seconds(read, short)), min(long_s, seconds(read, long))
        if long_s < LENIENT * short_s:
            break
    return long_s / short_s


@pytest.fixture(autouse=True)
def _readers_alone() -> Iterator[None]:
    """No collector, whose passes take longer the more there is, and no tracer: a reader alone is measured."""
    gc.collect()
    gc.disable()
    with untraced():
        yield
    gc.enable()


@pytest.mark.parametrize("name", READERS)
def test_no_reader_grows_faster_than_its_text(name: str) -> None:
    """Four times the text takes about four times as long, however hostile it is."""
    read, frames = READERS[name]
    for frame, piece in itertools.product(frames, PIECES):
        text = partial(written, frame, piece)
        if seconds(read, text(LENGTH)) >= QUICK_S:
            assert growth(read, text) < LENIENT, f"{piece!r} over and over, {frame}"


def written(frame: str, piece: str, length: int) -> str:
    """A repeated piece in a frame."""
    return FRAMES[frame].format(piece * (length // len(piece)))
