"""jobs list --open and jobs track, on a store with submissions in every state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.message.notification import job_key
from consumer.policy import SubmissionState
from consumer.store.open import open_submissions
from consumer.store.submissions import NewSubmission
from consumer.store_address import parse_store_address
from tests.stores import new_file

Cli = Callable[..., Any]
QUEUE = "1/cn-hangzhou/films"
URL = "mns://1.mns.cn-hangzhou.aliyuncs.com/queues/films"


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A submission that runs, one without an answer, one that was refused."""
    path = tmp_path / "state" / "s.db"
    new_file(path).close()

    async def fill() -> None:
        async with open_submissions(parse_store_address(str(path))) as submissions:
            for ref in ("runs", "unknown", "refused"):
                one, _ = await submissions.record(NewSubmission(QUEUE, "Cover", '{"Input":"oss://b/f.mp4"}', ref))
                if ref == "runs":
                    key = job_key(QUEUE, "J")
                    await submissions.submitted(one.id, job_id="J", key=key, request_id="R", next_in_s=900)
                else:
                    await submissions.close_as(one.id, SubmissionState(ref), "no answer came")

    asyncio.run(fill())
    return str(path)


def test_open_submissions_are_listed(cli: Cli, store: str) -> None:
    """The open submissions are shown, the latest first, with their request; a refused one is not."""
    ran = cli("jobs", "list", "--open", "--store", store, "--json")
    unknown, runs = map(json.loads, ran.out.splitlines())
    assert (unknown["state"], unknown["ref"], unknown["job_id"], unknown["error"]) == (
        "unknown",
        "unknown",
        None,
        "no answer came",
    )
    assert (runs["state"], runs["job_id"], runs["request"]) == ("submitted", "J", {"Input": "oss://b/f.mp4"})
    shown = cli("jobs", "list", "--open", "--store", store, "--limit", "1")
    assert "unknown" in shown.out
    assert "the latest 1 are shown" in shown.err
    assert "no submission is open" in cli("jobs", "list", "--open", "--store", store, "--queue", "a/b/c").err


def test_a_submitted_job_is_shown(cli: Cli, store: str) -> None:
    """``jobs show`` of a job that was submitted and of which no run has ended shows its submission."""
    found = json.loads(cli("jobs", "show", "J", "--store", store, "--json").out)
    assert (found["state"], found["ref"], found["job_id"], found["queue"]) == ("submitted", "runs", "J", QUEUE)
    assert found["since"] < found["next_try_at"]
    assert "submitted" in cli("jobs", "show", "J", "--store", store).out
    unknown = cli("jobs", "show", "J", "--store", store, "--queue", "a/b/c")
    assert (unknown.code, unknown.out, "no job 'J' is known here" in unknown.err) == (2, "", True)


def test_a_filter_that_says_nothing_of_submissions_is_refused(cli: Cli, store: str) -> None:
    """A flag about ended jobs beside --open is a usage error."""
    ran = cli("jobs", "list", "--open", "--function", "Cover", "--store", store)
    assert (ran.code, "--open: expected no other flag than --queue" in ran.err) == (2, True)


def test_jobs_of_others_are_tracked(cli: Cli, store: str) -> None:
    """Jobs track records each job once, for the queue of the settings."""
    ran = cli("jobs", "track", "A", "B", "A", "--function", "Cover", "--store", store, "--notify-url", URL)
    assert ran.out.splitlines() == [
        f"tracked: job A, queue {QUEUE}",
        f"tracked: job B, queue {QUEUE}",
        f"recorded before: job A, queue {QUEUE}",
    ]
    listed = cli("jobs", "list", "--open", "--store", store, "--json").out
    assert {json.loads(line)["job_id"] for line in listed.splitlines()} == {"A", "B", "J", None}
    refused = cli("jobs", "track", "A", "--store", store)
    assert (refused.code, "--queue: expected the queue" in refused.err) == (2, True)
