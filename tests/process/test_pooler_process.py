"""Daemons as real processes whose PostgreSQL is behind a real PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from consumer.sandbox import Sandbox
from consumer.store.ledger import Filter
from tests.engine.rig import QUEUE, body
from tests.pooler import SIZE, left_in_sessions, pooler
from tests.postgres import postgres_schema
from tests.process.rig import Process
from tests.stores import operators_at

JOBS = 300
HANDLERS = """
import os
from pathlib import Path
from mns_consumer import Job, handler

RUNS = os.open(Path(__file__).parent.parent / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@handler("Cover")
async def cover(job: Job) -> None:
    os.write(RUNS, f"{job.job_id}\\n".encode())
"""


@pytest.fixture
def schema() -> Iterator[str]:
    with postgres_schema() as name:
        yield name


async def test_two_daemons_share_a_pooler_that_restarts(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], schema: str
) -> None:
    """Two daemons with fewer sessions than connections run each job once, and leave nothing in the sessions."""
    ids = [f"{number:032x}" for number in range(JOBS)]
    with pooler() as running:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
            started.append(Process(sandbox, folder, f"store={running.store(schema)}", "slots=8", handlers=HANDLERS))

        def runs() -> list[list[str]]:
            return [path.read_text().split() for folder in folders if (path := folder / "runs").exists()]

        for daemon in started:
            await daemon.logged('"event":"started"')
        for job_id in ids:
            sandbox.put(QUEUE, body(job_id).decode())
        with anyio.fail_after(20):
            while sum(map(len, runs())) < JOBS // 4:  # noqa: ASYNC110 - other processes write them
                await anyio.sleep(0.01)
            running.stop()
            await anyio.sleep(0.2)
            running.start()
            while sandbox.messages(QUEUE):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.02)
        assert sorted(job_id for some in runs() for job_id in some) == ids
        assert all(runs())
        assert [await daemon.stop() for daemon in started] == [0, 0]
        assert await left_in_sessions(running) == [({}, 0, 0)] * SIZE
        operators = operators_at(running.store(schema))
        assert len(await operators.list_jobs(Filter(), limit=2 * JOBS)) == JOBS
        assert await operators.count_letters(Filter()) == 0
        await operators.close()


async def test_statement_pooling_ends_the_start(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], schema: str
) -> None:
    """Behind a pooler that pools statements the daemon ends with 78 and one line that says what to do."""
    with pooler("statement") as running:
        started.append(Process(sandbox, tmp_path, f"store={running.store(schema)}"))
        assert await started[0].ended() == 78
    lines = [line for line in started[0].log.read_text().splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "set pool_mode = transaction" in lines[0]
