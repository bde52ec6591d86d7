"""Processes that are killed around a submission submit nothing twice and hide nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import anyio
import pytest

from consumer.functions.cover import CoverParams
from consumer.policy import SubmissionState
from consumer.sandbox import Fault, Sandbox
from consumer.store.submissions import Submissions
from consumer.submissions.submitter import SubmissionUnknown
from tests.submissions.conftest import QUEUE
from tests.submissions.test_client import FILES, MakeClient

KILLS = 25


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_no_job_is_submitted_twice(
    settings: dict[str, Any],
    sandbox: Sandbox,
    submissions: Submissions,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However a process is killed around its submission, each job is recorded, and its ref makes no second one."""
    sandbox.faults.add(Fault(kind="latency", operations=("submit",), seconds=0.1))
    command = [sys.executable, "-m", "tests.submissions.killed_clients", json.dumps(settings), str(KILLS), "0.4", "7"]
    done = await anyio.run_process(command, check=True)
    answered = set(done.stdout.decode().split())
    await anyio.sleep(0.5)
    sandbox.faults.clear()

    monkeypatch.setattr("consumer.store.submissions.CALL_LIMIT_S", -1.0)
    await submissions.lose_intents(f"{sandbox.settings.account}/cn-hangzhou/{QUEUE}")
    made = Counter(job.job_id for job in sandbox.jobs.all())
    states: Counter[str] = Counter()
    for number in range(KILLS):
        ref = f"k{number}"
        found = await submissions.find_ref(ref)
        states[str(found.state) if found else "none"] += 1
        if ref in answered:
            assert found is not None
            assert found.state is SubmissionState.SUBMITTED
        assert found is None or found.state in {SubmissionState.SUBMITTED, SubmissionState.UNKNOWN}
    assert len(made) <= states[SubmissionState.SUBMITTED] + states[SubmissionState.UNKNOWN]
    assert states[SubmissionState.SUBMITTED]
    assert states[SubmissionState.UNKNOWN]

    async with make_client() as client:
        for number in range(KILLS):
            try:
                await client.submit(CoverParams(), **FILES, ref=f"k{number}")
            except SubmissionUnknown:
                states["refused"] += 1
    assert states["refused"] == states[SubmissionState.UNKNOWN]
    assert len(sandbox.jobs.all()) == len(made) + states["none"]
