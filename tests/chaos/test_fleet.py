"""Four daemons on one queue, every message delivered twice: without a crash no handler runs twice.

They share PostgreSQL through PgBouncer in transaction mode, which has two sessions for their twelve connections. The
plan ``fleet`` of ``test_chaos`` does without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import pytest

from consumer.sandbox import Fault, Sandbox
from consumer.sandbox.queue import State
from tests.chaos.daemons import QUEUE, Launcher
from tests.chaos.stores import read_store
from tests.chaos.traffic import Sender, Watch
from tests.chaos.verdict import Evidence, judge, read_journal
from tests.pooler import Pooler, pooler
from tests.postgres import ADDRESS, postgres_schema, store_at

_DAEMONS: Final = 4
_JOBS: Final = 250
_SLOW_JOBS: Final = 4


async def _until_ended(store: str, jobs: int, within_s: float) -> None:
    with anyio.fail_after(within_s):
        while len((await read_store(store)).ended) < jobs:  # noqa: ASYNC110 - other processes write it
            await anyio.sleep(0.1)


async def _until_empty(sandbox: Sandbox, within_s: float) -> None:
    """Wait until every message was delivered twice and deleted; hidden messages are made visible."""
    queue = sandbox.account.get(QUEUE).queue
    with anyio.fail_after(within_s):
        while not all(message.dequeue_count for message in sandbox.messages(QUEUE)):  # noqa: ASYNC110 - daemons do that
            await anyio.sleep(0.1)
        # Every message has been delivered twice; with the fault each further delivery would add one.
        sandbox.faults.clear()
        while messages := sandbox.messages(QUEUE):
            for message in messages:
                if message.state is State.INACTIVE:
                    queue.revoke(message)
            await anyio.sleep(0.5)


@pytest.fixture
def schema() -> Iterator[str]:
    with postgres_schema() as name:
        yield name


@pytest.fixture
def pooled() -> Iterator[Pooler]:
    with pooler() as running:
        yield running


@pytest.mark.timeout(60)
async def test_no_handler_runs_twice_when_every_message_comes_twice(
    sandbox: Sandbox, tmp_path: Path, schema: str, pooled: Pooler
) -> None:
    """With every message delivered twice among four daemons, each job's handler runs exactly once."""
    sandbox.account.create(QUEUE, {"VisibilityTimeout": "3"})
    watch, store = Watch(), store_at(ADDRESS, schema)
    watch.attach(sandbox)
    with Launcher(sandbox, tmp_path, pooled.store(schema)) as launcher:
        await _handle_all(launcher, watch, store)
    runs = read_journal(launcher.journal.read_text().splitlines())
    by_daemon = Counter(run.pid for run in runs)
    deliveries = len(watch.deleted)
    figures = f"{_JOBS} jobs, {len(watch.arrivals)} messages, {deliveries} deliveries, runs by daemon {dict(by_daemon)}"
    print(f"\n{figures}")  # noqa: T201 - the figures are the result
    verdict = judge(Evidence(watch, runs, deaths={}, leases_lost={}, stored=await read_store(store)))
    assert not verdict.wrong, "\n".join([figures, *verdict.wrong])
    assert Counter(run.job for run in runs) == Counter(dict.fromkeys(watch.acts, 1)), figures
    assert deliveries >= 2 * len(watch.arrivals), figures
    assert sandbox.faults.applied["notification_twice"] > 0
    assert len(by_daemon) == _DAEMONS, figures


async def _handle_all(launcher: Launcher, watch: Watch, store: str) -> None:
    """Start the daemons, send all jobs, and stop the daemons when no message is left."""
    sandbox = launcher.sandbox
    daemons = [launcher.start() for _ in range(_DAEMONS)]
    for daemon in daemons:
        await daemon.serving()
    # A second delivery of every message, and a second message of every fourth job.
    sandbox.faults.add(Fault(kind="duplicate"))
    sandbox.faults.add(Fault(kind="notification_twice", probability=0.25))
    sender = Sender(sandbox, watch, seed=4)
    for number in range(_JOBS):
        sender.send("slow" if number < _SLOW_JOBS else ("quick", "typed", "plain")[number % 3])
        await anyio.sleep(0.004)
    await _until_ended(store, _JOBS, 25)
    await _until_empty(sandbox, 15)
    async with anyio.create_task_group() as stops:
        for daemon in daemons:
            stops.start_soon(daemon.stop)
