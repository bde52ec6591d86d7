"""The runs of one job: those that the store keeps because they left it open, and the one that ended it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from consumer.cli.output import masked, print_list, time_text
from consumer.ops.sanitize import printable_block
from consumer.store.ledger import JobRecord, RunRecord, StoredJob, StoredLetter


def history_json(
    queue: str, runs: Sequence[RunRecord], jobs: Sequence[StoredJob], letters: Sequence[StoredLetter]
) -> list[dict[str, Any]]:
    """A job's runs in one queue as JSON, the oldest first, masked.

    A dead letter knows more of the run that it ended than the job's record does. One whose handler was not called, as
    of a message that can't be read, is no run.
    """
    found = [(run.ended_at, _run_json(run, run.attempt, run.result, run.error, run.traceback)) for run in runs]
    ends = {(one.letter.job.key, one.letter.job.ended_at) for one in letters}
    for one in letters:
        letter, job = one.letter, one.letter.job
        if job.started_at < job.ended_at:
            run = _run_json(job, job.attempts, letter.reason.value, letter.error, letter.traceback)
            found.append((job.ended_at, run))
    for stored in jobs:
        job = stored.record
        if (job.key, job.ended_at) not in ends:
            run = _run_json(job, job.attempts, "dead" if stored.dead else "done", None, None)
            found.append((job.ended_at, run))
    in_order = sorted(found, key=lambda timed: timed[0])
    return [masked(run) for _, (of_queue, run) in in_order if of_queue == queue]


def _run_json(
    of: RunRecord | JobRecord, attempt: int, result: str, error: str | None, traceback: str | None
) -> tuple[str, dict[str, Any]]:
    """Its queue and itself."""
    return of.queue, {
        "attempt": attempt,
        "started_at": time_text(of.started_at),
        "ended_at": time_text(of.ended_at),
        "result": result,
        "error": error,
        "traceback": traceback,
    }


def print_history(history: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each run, and the latest traceback below."""
    if not history:
        return
    print()
    rows = (
        (run["attempt"], (run["started_at"] or "-")[:19], _seconds(run), run["result"], run["error"] or "-")
        for run in history
    )
    print_list(("attempt", "started_at", "seconds", "result", "error"), rows, wide=False)
    if tracebacks := [run["traceback"] for run in history if run["traceback"]]:
        print(f"\n{printable_block(tracebacks[-1].rstrip())}")


def _seconds(run: Mapping[str, Any]) -> str:
    """How long it took."""
    if run["started_at"] is None or run["ended_at"] is None:
        return "-"
    took = datetime.fromisoformat(run["ended_at"]) - datetime.fromisoformat(run["started_at"])
    return f"{took.total_seconds():.1f}"
