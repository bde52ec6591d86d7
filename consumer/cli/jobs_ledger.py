"""``mns-consumer jobs list`` and ``jobs show``: what the ledger knows of jobs that have ended.

Elsewhere: handling a job without a message (``cli.jobs``), what is kept of a job (``store.ledger``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.cli.letter_pages import open_operators
from consumer.cli.options import Said, takes_settings
from consumer.cli.record_view import job_json, letter_json, note, print_fields, print_jobs, print_json
from consumer.cli.records import WHICH, FunctionFlag, JobIdFlag, JsonFlag, LimitFlag, QueueFlag, SinceFlag
from consumer.cli.records import wanted_records as wanted_jobs
from consumer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.store.ledger import Filter
    from consumer.store.queries import StoredJob, StoredLetter
    from consumer.store_address import StoreAddress

_PAGE: Final = 200


class End(StrEnum):
    """How a job ended."""

    DONE = "done"
    DEAD = "dead"


@takes_settings
def list_jobs(
    said: Said,
    *,
    function: FunctionFlag = None,
    since: SinceFlag = None,
    job_id: JobIdFlag = None,
    queue: QueueFlag = None,
    ended: Annotated[End | None, typer.Option("--ended", help="Ended this way.", rich_help_panel=WHICH)] = None,
    limit: LimitFlag = 100,
    as_json: JsonFlag = False,
) -> None:
    """List the jobs that have ended, the latest first.

    A job that still runs, or waits for its next try, is in its queue and not in this list.
    """
    import anyio  # noqa: PLC0415 - quick --help

    settings = said.settings()
    wanted = wanted_jobs(settings, function=function, since=since, job_id=job_id, queue=queue)
    found, more = anyio.run(_latest, settings.store_target(), wanted, ended, limit)
    if as_json:
        for stored in found:
            print_json(job_json(stored))
    elif found:
        print_jobs(found)
    if not found:
        note("no job that has ended matches")
    elif more:
        note(f"the latest {len(found)} are shown; say --limit for more")


@takes_settings
def show_job(
    said: Said,
    job_id: Annotated[str, typer.Argument(metavar="JOBID", help="JobId or RunId.")],
    *,
    queue: QueueFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Show all that the ledger knows of one job, UserData and result included."""
    import anyio  # noqa: PLC0415 - quick --help

    settings = said.settings()
    wanted = wanted_jobs(settings, job_id=job_id, queue=queue)
    jobs, letters = anyio.run(_everything_of, settings.store_target(), wanted)
    if not jobs and not letters:
        raise UsageError(
            f"the ledger knows no job {job_id!r} that has ended; expected a JobId of 'mns-consumer jobs list'"
        )
    for number, stored in enumerate(jobs):
        if as_json:
            numbers = [one.id for one in letters if one.letter.job.key == stored.record.key]
            print_json({**job_json(stored), "dead_letters": numbers})
        else:
            print("\n" * bool(number), end="")
            print_fields(job_json(stored))
    if as_json:
        if not jobs:
            # Replayed and not ended again: the letters are all there is.
            for one in letters:
                print_json(letter_json(one, whole=False))
        return
    for one in letters:
        note(
            f"dead letter {one.id} ({one.letter.reason.value}, {one.state.value}):"
            f" mns-consumer dead-letters show {one.id}"
        )


async def _latest(target: StoreAddress, wanted: Filter, ended: End | None, limit: int) -> tuple[list[StoredJob], bool]:
    """The latest jobs that match, and whether there are more."""
    dead = None if ended is None else ended is End.DEAD
    found: list[StoredJob] = []
    async with open_operators(target) as operators:
        # One job more than asked for shows whether there are more.
        while size := min(_PAGE, limit + 1 - len(found)) if limit else _PAGE:
            after = found[-1].cursor if found else None
            page = await operators.list_jobs(wanted, limit=size, dead=dead, after=after)
            found += page
            if len(page) < size:
                break
    return (found[:limit], len(found) > limit) if limit else (found, False)


async def _everything_of(target: StoreAddress, wanted: Filter) -> tuple[Sequence[StoredJob], Sequence[StoredLetter]]:
    async with open_operators(target) as operators:
        return await operators.list_jobs(wanted, limit=_PAGE), await operators.list_letters(wanted, limit=_PAGE)
