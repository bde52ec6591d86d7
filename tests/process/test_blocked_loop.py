"""A handler that blocks the event loop: the other jobs of that daemon keep their leases and claims."""

from __future__ import annotations

import json
import signal
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import body
from tests.postgres import postgres_store
from tests.process.rig import Process

QUEUE = "brief"
HANDLERS = """
import time
from pathlib import Path
import anyio
from mns_consumer import Job, handler
from consumer.config import Settings
from consumer.engine import lease, loop_watch

# Leases and claims so short that a block of seconds outlives them, and a block noticed before that.
loop_watch.BEAT_S, loop_watch.LAG_LIMIT_S = 0.1, 0.3
policy_of = Settings.policy
Settings.policy = lambda settings: policy_of(settings).model_copy(update={"lease_step_s": 2, "max_hold_s": 600})
lease.CLAIM_MARGIN_S = 0.5
loop_watch.TAKE_STARTS_BACK_S = 0.3

async def begin(job):
    with Path(BEGUN).open("a") as file:
        file.write(job.job_id + "\\n")
    await anyio.sleep(0.5)

@handler("Cover")
async def cover(job: Job) -> None:
    await begin(job)
    await anyio.sleep(COVER_S)

@handler("VideoClip")
async def blocks(job: Job) -> None:
    await begin(job)
    time.sleep(BLOCK_S)
"""


def handlers(begun: Path, *, block_s: float, cover_s: float) -> str:
    texts = {"BEGUN": repr(str(begun)), "BLOCK_S": str(block_s), "COVER_S": str(cover_s)}
    text = HANDLERS
    for name, value in texts.items():
        text = text.replace(name, value)
    return text


def events(daemon: Process, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"].startswith(event)]


async def metric(daemon: Process, name: str) -> float:
    """One metric of a daemon, by its name and labels as they are scraped."""

    def scrape() -> str:
        (port,) = [event["admin_port"] for event in events(daemon, "started") if "admin_port" in event]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    lines = (await anyio.to_thread.run_sync(scrape)).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"mns_consumer_{name} "))


@pytest.fixture
def database() -> Iterator[str]:
    with postgres_store() as address:
        yield address


@pytest.mark.timeout(40)
async def test_replicas_do_not_take_over_what_a_blocked_loop_holds(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], database: str
) -> None:
    """While a handler blocks the loop for longer than leases and claims last, another daemon takes over no job."""
    sandbox.account.create(QUEUE, {"VisibilityTimeout": "2"})
    begun = tmp_path / "begun"
    text = handlers(begun, block_s=4, cover_s=0.5)
    flags = (f"notify_url={sandbox.notify_url(QUEUE)}", f"store={database}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = Process(sandbox, tmp_path / "a", *flags, handlers=text)
    started.append(first)
    await first.logged('"event":"started"')
    for number in range(6):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    sandbox.put(QUEUE, body("f" * 32, "VideoClip").decode())
    second = Process(sandbox, tmp_path / "b", *flags, handlers=text)
    started.append(second)
    await first.logged("event loop blocked")
    await second.logged('"event":"started"')
    with anyio.fail_after(20):
        while sandbox.messages(QUEUE):  # noqa: ASYNC110 - other processes empty it
            await anyio.sleep(0.05)
    with anyio.fail_after(5):
        # The answers to the last deletes are still to come.
        while await metric(first, f'deletes_total{{queue="{QUEUE}",result="deleted"}}') < 7:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    assert set(Counter(begun.read_text().split()).values()) == {1}
    assert len(begun.read_text().split()) == 7
    (blocked,) = events(first, "event loop blocked")
    assert (blocked["function"], blocked["job_id"]) == ("VideoClip", "f" * 32)
    assert str(blocked["stack"]).splitlines()[-1].strip() == "time.sleep(4)"
    (again,) = events(first, "event loop runs again")
    assert 3 < float(str(again["blocked_seconds"])) < 8
    assert await metric(first, "event_loop_blocks_total") == 1
    assert await metric(first, f'lease_renewals_total{{queue="{QUEUE}",result="lost"}}') == 0
    # The handles by which they were deleted were the newest: those that the other thread had got.
    assert await metric(first, f'deletes_total{{queue="{QUEUE}",result="deleted"}}') == 7
    assert await metric(first, f'deletes_total{{queue="{QUEUE}",result="gone"}}') == 0
    assert await metric(second, "event_loop_blocks_total") == 0


def starts(path: Path) -> list[str]:
    """The keys whose starts are on record."""
    with closing(sqlite3.connect(path)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM attempt WHERE starts > 0")]


@pytest.mark.timeout(30)
async def test_a_block_is_no_start_of_the_handlers_that_do_not_block(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """While one handler blocks the loop only its start is on record; the others' are restored when the loop runs."""
    sandbox.account.create(QUEUE, {"VisibilityTimeout": "30"})
    for number in range(3):
        # Handed out before: so its start is written down.
        sandbox.put(QUEUE, body(f"{number:032x}").decode()).dequeue_count = 1
    sandbox.put(QUEUE, body("f" * 32, "VideoClip").decode()).dequeue_count = 1

    async def until(holds: Callable[[set[str]], bool]) -> None:
        with anyio.fail_after(10):
            while True:
                if holds({key[-32:] for key in starts(tmp_path / "ledger.db")}):
                    return
                await anyio.sleep(0.05)

    text = handlers(tmp_path / "begun", block_s=1.5, cover_s=60)
    daemon = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url(QUEUE)}", handlers=text)
    started.append(daemon)
    await daemon.logged('"event":"started"')
    await until(lambda jobs: len(jobs) == 4)
    await daemon.logged("event loop blocked")
    await until(lambda jobs: jobs == {"f" * 32})
    await daemon.logged("event loop runs again")
    await until(lambda jobs: jobs == {f"{number:032x}" for number in range(3)})
    # A process that is stopped as a whole is not blocked by anything: nothing is to be read from its stack.
    daemon.process.send_signal(signal.SIGSTOP)
    await anyio.sleep(1)
    daemon.process.send_signal(signal.SIGCONT)
    await daemon.logged("no thread of this process ran meanwhile")
    assert len(events(daemon, "event loop blocked")) == 1
