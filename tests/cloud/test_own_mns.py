"""The daemon against an MNS that was written from the facts alone, in every variant that they leave room for.

One daemon of this process serves all variants at once, each as a queue of its own with an endpoint of its own. In each
queue lie four messages: two plain ones, one whose handler outlives the visibility, so that its lease must be renewed,
and one whose handler fails at first, so that it must be hidden and come back.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.app import App
from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.pool import open_pool
from consumer.config import Settings, load
from consumer.errors import Fault
from consumer.plugin.handler import Job
from consumer.store.ledger import Filter
from tests.cloud.own_mns import EXTENDED, FIELDS, OwnMns, Variant
from tests.engine.rig import handlers
from tests.stores import operators_at

ESSENTIAL = ("MessageId", "MessageBody", "ReceiptHandle", "NextVisibleTime")
SPARE = tuple(name for name in FIELDS if name not in ESSENTIAL)
PRINTED = (
    *("MessageId", "ReceiptHandle", "MessageBodyMD5", "MessageBody", "EnqueueTime", "NextVisibleTime"),
    *("FirstDequeueTime", "DequeueCount", "Priority"),
)
"""The order in which the pages of 2015 print a message."""
PREFIXED = ' xmlns:m="http://mns.aliyuncs.com/doc/v1"'
HUGE = "7" * 5000
NUMBERS = {
    "1e400": "1e400",
    "negative": "-5",
    "5000 digits": HUGE,
    "arabic": "\u0667",
    "2^63": str(2**63),
    "10^17": "1" + "0" * 17,
}
ERROR = "<Error><Code>InternalError</Code><Message>m</Message><RequestId>R</RequestId><HostId>h</HostId></Error>"

SOUND = (
    Variant("usual"),
    # What a received message lacks.
    *(Variant(f"without {name}", without=(name,)) for name in SPARE),
    Variant("with the essential fields only", without=SPARE),
    Variant("with empty fields", values=dict.fromkeys(SPARE, "")),
    Variant("without times, behind by 10 minutes", without=SPARE, skew_s=-600),
    # How the XML is written.
    Variant("compact", gap="", declaration=""),
    Variant("as printed in 2015", order=PRINTED, namespace=' xmlns="http://mns.aliyuncs.com/doc/v1/"'),
    Variant("opposite order of fields", order=FIELDS[::-1]),
    Variant("extended", extra=EXTENDED),
    Variant("unknown fields", extra="<New>1</New><Newer><Newest/></Newer>"),
    Variant("an empty field", extra="<MessageGroupId/>"),
    Variant("line ends of Windows", gap="\r\n\t", declaration='<?xml version="1.0"?>\r\n'),
    Variant("declared encoding", declaration="<?xml version='1.0' encoding='UTF-8' standalone='yes'?>"),
    Variant("byte order mark", head=b"\xef\xbb\xbf"),
    Variant("namespace with a slash", namespace=' xmlns="http://mns.aliyuncs.com/doc/v1/"'),
    Variant("no namespace", namespace=""),
    Variant("prefixed names", prefix="m:", namespace=PREFIXED),
    Variant("another sum", values={"MessageBodyMD5": "0" * 32}),
    Variant("bodies as CDATA", cdata=True),
    Variant("raw bodies as CDATA", cdata=True, raw=True),
    Variant("raw bodies", raw=True),
    Variant("characters that XML forbids", extra="<MessageGroupId>\x0b</MessageGroupId>"),
    Variant("characters that XML forbids, CDATA", extra="<MessageGroupId>\x0b</MessageGroupId>", cdata=True, gap=""),
    # Heads and framing.
    Variant("refusals without request id", request_id="success"),
    Variant("successes without request id", request_id="refusal"),
    Variant("no request id at all", request_id="none"),
    Variant("no request id, no namespace", request_id="none", namespace=""),
    Variant("no request id, prefixed names", request_id="none", prefix="m:", namespace=PREFIXED),
    Variant("errors without HostId and Message", spare=("Code", "RequestId")),
    Variant("errors without RequestId", spare=("Code", "Message", "HostId")),
    Variant("opposite order of headers", backwards=True),
    Variant("lower-case headers", lower=True),
    Variant("no version, no server", headers={"x-mns-version": None, "Server": None}),
    Variant("no content type", headers={"Content-Type": None}),
    Variant("JSON as content type", headers={"Content-Type": "application/json"}),
    Variant("chunked", framing="chunked"),
    Variant("a connection for each call", framing="close"),
    Variant("in pieces", framing="pieces"),
    Variant("by the connection's end", framing="end"),
    Variant("204 with a length", length_of_204=True),
    # Clocks.
    Variant("no Date", headers={"Date": None}),
    Variant("odd Date", headers={"Date": "soon"}),
    Variant("Date of 2035", headers={"Date": "Mon, 01 Jan 2035 00:00:00 GMT"}),
    Variant("Date of 2015", headers={"Date": "Thu, 09 Jul 2015 03:01:34 GMT"}),
    Variant("Date without a zone", headers={"Date": "Thu, 09 Jul 2015 03:01:34"}),
    Variant("ahead by 10 minutes", skew_s=600),
    Variant("behind by 10 minutes", skew_s=-600),
    Variant("behind by 10 minutes, no Date", skew_s=-600, headers={"Date": None}),
    Variant("ahead by 10 minutes, no Date", skew_s=600, headers={"Date": None}),
    # Statuses.
    Variant("empty is 200", empty=(200, '<Messages xmlns="http://mns.aliyuncs.com/doc/v1"></Messages>')),
    Variant("throttled", busy=(429, "")),
    Variant("failing", busy=(500, ERROR)),
    Variant("front end", busy=(503, "<html>busy</html>")),
    Variant("attributes denied", denies_attributes=True),
    Variant("attributes without counts", attributes={"ActiveMessages": None, "DelayMessages": None}),
    Variant("hostile attributes", attributes={"MessageRetentionPeriod": HUGE, "CreateTime": "-1"}),
    # Receipt handles.
    Variant("handles are kept", on_hide="same"),
    Variant("gone is 400", gone=(400, "ReceiptHandleError")),
    Variant("old handles are honoured", on_hide="both"),
    Variant("odd handles", handle="a+/=&<>%41 {}"),
    Variant("long handles", handle="h" * 900 + "{}"),
    # Batches.
    Variant("one at a time", batch=1),
    Variant("more than asked for", batch=100),
    Variant("a delete fails under 404", partial=404),
    Variant("a delete fails under 400", partial=400),
    Variant("a delete fails under 500", partial=500),
    Variant("a delete fails, no request id", partial=404, request_id="none"),
    Variant("a delete fails and closes", partial=404, framing="close"),
    # Hostile numbers: in the field that no message can lack, and in all others at once.
    *(
        Variant(f"{label} in {', '.join(names)}", values=dict.fromkeys(names, value))
        for label, value in NUMBERS.items()
        for names in (("NextVisibleTime",), SPARE[1:])
    ),
    *(Variant(f"hidden until {value[:5]}", hidden=value) for value in ("1e400", "0", "-1", "9" * 17, HUGE)),
)
UNSOUND = (
    *(Variant(f"without {name}", without=(name,)) for name in ESSENTIAL),
    Variant("another namespace, no request id", namespace=' xmlns="http://x.example/"', request_id="none"),
    Variant("an HTML page", page="<html><body>Welcome</body></html>"),
    Variant("a doctype", page='<!DOCTYPE a [<!ENTITY b "c">]><Messages>&b;</Messages>'),
    Variant("another success", received=206),
    Variant("a redirect", received=302),
    Variant("nothing but broken entries", page="<Messages>" + "<a/>" * 2000 + "</Messages>"),
)
"""Each of these lacks an essential field: nothing is handled, every message stays."""
DEAF = Variant("deletes answered by a page", deleted=(200, "<html/>"))
"""A message that can't be deleted is handled all the same, and handled once."""
NAMES = {variant.name: f"q{number}" for number, variant in enumerate((*SOUND, *UNSOUND, DEAF))}
KINDS = ("plain-1", "plain-2", "slow", "failing")
RUNS = {"plain-1": 1, "plain-2": 1, "slow": 1, "failing": 2}

# The first test waits for all that the daemon does to 100 queues.
pytestmark = pytest.mark.timeout(150)


@dataclass
class Seen:
    """What came of it, by the queues' names.

    Args:
        runs: Of each job.
        left: Messages that are still in the queue.
        polls: Receives.
        unreadable: Receives whose answer was not taken for MNS's.
        letters: Dead letters.
        problems: What the log says of odd answers.
    """

    runs: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, float] = field(default_factory=dict)
    letters: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def runs_of(self, variant: Variant) -> dict[str, int]:
        """The runs of a variant's four jobs."""
        return {kind: self.runs[f"{NAMES[variant.name]}-{kind}"] for kind in KINDS}


def _body(variant: Variant, kind: str) -> str:
    fields = {"Type": "IProduction", "FunctionName": "Cover", "State": "Success", "Code": "Success"}
    text = json.dumps(fields | {"JobId": f"{NAMES[variant.name]}-{kind}", "Message": "a<b>&c"})
    return text if variant.raw else base64.b64encode(text.encode()).decode()


async def _serve(folder: Path) -> Seen:
    seen = Seen()

    async def cover(job: Job) -> None:
        name = str(job.job_id)
        seen.runs[name] += 1
        if name.endswith("slow"):
            await anyio.sleep(3.5)
        if name.endswith("failing") and job.attempt == 1:
            raise ValueError("at first")

    store = str(folder / "ledger.db")
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[str, OwnMns] = {}
        for variant in (*SOUND, *UNSOUND, DEAF):
            servers[NAMES[variant.name]] = server = await stack.enter_async_context(OwnMns(variant))
            for kind in KINDS:
                server.put(_body(variant, kind))
        app = App(_settings(servers, store), handlers(Cover=cover))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            # Some 100 queues at once: a machine that runs other tests beside them takes its time.
            sound = [servers[NAMES[variant.name]] for variant in SOUND]
            with anyio.move_on_after(100):
                while any(one.messages for one in sound) or seen.runs_of(DEAF) != RUNS:  # noqa: ASYNC110 - another task's
                    await anyio.sleep(0.02)
            app.stop()
        seen.left = {name: len(server.messages) for name, server in servers.items()}
        seen.polls = {name: server.calls["GET messages"] for name, server in servers.items()}
    # In one pass: with 100 queues there are ten thousand metrics.
    seen.unreadable = dict.fromkeys(servers, 0.0) | {
        sample.labels["queue"]: sample.value
        for metric in app.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "mns_consumer_polls_total" and sample.labels["result"] == Fault.UNREADABLE
    }
    operators = operators_at(store)
    seen.letters.update(one.letter.job.queue for one in await operators.list_letters(Filter(), limit=1000))
    await operators.close()
    return seen


def _settings(servers: Mapping[str, OwnMns], store: str) -> Settings:
    lanes = [
        {"notify_url": f"mns://1.mns.cn-x.aliyuncs.com/queues/{name}", "endpoint": f"http://127.0.0.1:{server.port}"}
        for name, server in servers.items()
    ]
    # Three slots for four messages: a server that sends all it has sends one too many.
    times = {"wait_s": 1, "lease_step_s": 10, "retry_base_s": 0.5, "stop_deadline_s": 1}
    keys = {"access_key_id": "id", "access_key_secret": "secret"}
    return load({"lanes": lanes, "store": store, "admin": False, "slots": 3, **times, **keys})


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What one daemon did to all variants."""
    folder = tmp_path_factory.mktemp("variants")
    with capture_logs() as lines:
        found = anyio.run(_serve, folder)
    for line in lines:
        if line["event"] == "invalid message in an answer":
            found.problems.setdefault(line["queue"], []).append(line["problem"])
    return found


@pytest.mark.parametrize("variant", SOUND, ids=lambda variant: variant.name)
def test_each_sound_variant_is_handled_whole(seen: Seen, variant: Variant) -> None:
    """Every message is handled exactly once, a failed run aside, and deleted; none is set aside, and nothing spins."""
    name = NAMES[variant.name]
    assert seen.runs_of(variant) == RUNS
    assert (seen.left[name], seen.letters[name]) == (0, 0)
    assert (seen.polls[name] < 40, seen.unreadable[name]) == (True, 0.0)


@pytest.mark.parametrize("variant", UNSOUND, ids=lambda variant: variant.name)
def test_of_an_unsound_variant_nothing_is_handled(seen: Seen, variant: Variant) -> None:
    """Nothing is handled, set aside or deleted, and the queue is asked at a slow pace."""
    name = NAMES[variant.name]
    assert seen.runs_of(variant) == dict.fromkeys(KINDS, 0)
    assert (seen.left[name], seen.letters[name]) == (len(KINDS), 0)
    assert 0 < seen.unreadable[name] <= seen.polls[name] < 12


def test_what_can_not_be_deleted_is_handled_once(seen: Seen) -> None:
    """Where deletes are answered by a page, the messages come back and run no second time."""
    assert seen.runs_of(DEAF) == RUNS
    assert (seen.left[NAMES[DEAF.name]], seen.letters[NAMES[DEAF.name]]) == (len(KINDS), 0)


def test_odd_answers_are_logged_in_few_lines(seen: Seen) -> None:
    """A message too many is one line; two thousand broken entries are three and one for the rest."""
    pattern = re.compile(r"(\d) more messages came than the (\d) asked for; they were not read and come back later")
    for problem in seen.problems[NAMES["more than asked for"]]:
        assert (found := pattern.fullmatch(problem))
        assert int(found[1]) + int(found[2]) <= len(KINDS)
    assert seen.problems[NAMES["nothing but broken entries"]][3].startswith("1997 more messages came than the 3")
    assert all("MessageBodyMD5" in problem for problem in seen.problems[NAMES["another sum"]])
    assert NAMES["usual"] not in seen.problems


async def test_a_message_is_sent_to_it_and_received() -> None:
    """What is sent wakes a receive that waits, and arrives as it was."""
    async with OwnMns(Variant("usual")) as server, open_pool() as pool:
        source = StaticCredentials(Keys("id", "secret"))
        queue = MnsQueue(endpoint=f"http://127.0.0.1:{server.port}", queue="q", credentials=source, pool=pool)
        async with asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(queue.receive(16, 5))
            await asyncio.sleep(0.05)
            await queue.send("<a>&amp;")
        assert [message.body for message in receiving.result().messages] == [b"<a>&amp;"]
        assert receiving.result().elapsed_s < 3


def test_there_are_variants_enough() -> None:
    """No variant is there twice, and no name."""
    assert len(NAMES) == len(SOUND) + len(UNSOUND) + 1
    assert len(SOUND) >= 40
