"""``mns-consumer jobs list --open`` and ``jobs track``: the jobs that were submitted and have not ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import anyio
import typer

from consumer.cli.options import LONGEST_JOB_ID, Selection, demand_text, selects
from consumer.cli.output import JsonFlag, note, print_fields, print_json, print_records, time_text
from consumer.config import Settings
from consumer.errors import UsageError
from consumer.message.notification import decode_user_data
from consumer.ops.sanitize import SECRETS, printable
from consumer.store.ledger import Filter
from consumer.store.open import open_submissions
from consumer.store.submissions import Submission

_COLUMNS: Final = ("since", "state", "function", "job_id", "ref", "queue", "next_try_at", "error")
_NARROW: Final = ("since", "state", "function", "job_id", "ref", "error")
_PAGE: Final = 200


def submission_json(one: Submission) -> Mapping[str, Any]:
    """A submission by the names that all commands print."""
    return {
        "submission": one.id,
        "state": one.state.value,
        "function": one.function or None,
        "job_id": one.job_id,
        "ref": one.ref,
        "queue": one.queue,
        "since": time_text(one.created_at),
        "next_try_at": time_text(one.next_at),
        "error": one.error and SECRETS.mask(one.error),
        "request": decode_user_data(SECRETS.mask(one.request)),
        "request_id": one.request_id,
    }


def list_submissions(selection: Selection, *, limit: int, wide: bool, as_json: bool) -> None:
    """Print the submissions whose jobs have not ended, the latest first."""
    queue, settings = selection.wanted.queue, selection.settings
    if selection.wanted != Filter(queue=queue):
        raise UsageError("--open: expected no other flag than --queue")

    async def look() -> list[Submission]:
        found: list[Submission] = []
        async with open_submissions(settings.store_address()) as submissions:
            # One more than asked for shows whether there are more.
            while size := min(_PAGE, limit + 1 - len(found)) if limit else _PAGE:
                before = found[-1].id if found else None
                page = await submissions.list_open(limit=size, queue=queue, before=before)
                found += page
                if len(page) < size:
                    break
        return found

    found = anyio.run(look)
    shown = found[:limit] if limit else found
    print_records([submission_json(one) for one in shown], _COLUMNS, _NARROW, as_json=as_json, wide=wide)
    if not found:
        note("no submission is open")
    elif len(found) > len(shown):
        note(f"the latest {len(shown)} are shown; say --limit for more")


def show_unended(
    settings: Settings, job_id: str, queue: str | None, running: Sequence[Mapping[str, Any]], *, as_json: bool
) -> None:
    """Print a job of which no run has ended: its run under way, and its submission.

    Raises:
        UsageError: It has neither.
    """

    async def look() -> Submission | None:
        async with open_submissions(settings.store_address()) as submissions:
            return await submissions.find_job(job_id)

    submission, fields = anyio.run(look), dict[str, Any]()
    if submission is not None and queue in {None, submission.queue}:
        fields |= submission_json(submission)
    for one in running:
        if one["job_id"] == job_id and queue in {None, one["queue"]}:
            fields |= {name: value for name, value in one.items() if value is not None}
    if not fields:
        raise UsageError(
            f"no job {job_id!r} is known here: none with this id has ended, waits for its next run, runs in the daemon"
            " of this store or was submitted by it; expected a JobId of 'mns-consumer jobs list'"
        )
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


@selects("queue")
def track(
    selection: Selection,
    job_ids: Annotated[list[str], typer.Argument(metavar="JOBID...", help="JobIds of MPS.")],
    *,
    function: Annotated[str, typer.Option(metavar="NAME", help="Their FunctionName, for lists and metrics.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Record jobs that others submitted, so that the daemon finds their ends."""
    for job_id in job_ids:
        demand_text("JOBID", job_id, LONGEST_JOB_ID)
    queues = [lane.url.identity for lane in selection.settings.queues()]
    queue = selection.wanted.queue or (queues[0] if len(queues) == 1 else None)
    if queue is None:
        raise UsageError(f"--queue: expected the queue that handles their ends: {', '.join(queues) or 'none is set'}")

    async def record() -> None:
        async with open_submissions(selection.settings.store_address()) as submissions:
            for job_id in job_ids:
                is_new = await submissions.track(queue, job_id, function)
                if as_json:
                    print_json({"job_id": job_id, "queue": queue, "is_new": is_new})
                else:
                    print(printable(f"{'tracked' if is_new else 'recorded before'}: job {job_id}, queue {queue}"))

    anyio.run(record)
