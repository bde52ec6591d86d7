"""``mns-consumer demo``: the whole job on this machine, without an account.

    sandbox (MNS and MPS) <- submit 17 jobs over MPS's API, put two strange messages
    daemon (the real one) -> receives, decodes, asks for results, calls the shipped handlers, sets aside
    the store             -> what became of everything: the table

Everything runs in this process and over real sockets; only the store is a temporary file.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from consumer.app import App
from consumer.cli.options import find_handlers
from consumer.cli.output import wide_console
from consumer.cloud.clients import open_clients
from consumer.cloud.mps import JobStatus
from consumer.config import Settings
from consumer.errors import ExitCode
from consumer.functions.catalogue import documented
from consumer.job_state import JobState
from consumer.message.notification import decode_user_data
from consumer.ops.logs import configure
from consumer.sandbox import Sandbox
from consumer.store.ledger import Filter, StoredJob, StoredLetter
from consumer.store.open import open_operators, open_submissions
from consumer.store.queries import Operators
from consumer.submissions.result import ended_job
from consumer.submissions.submitter import RequestRefusedError, Submitter

_QUEUE: Final = "demo"
_BUCKET: Final = "oss://demo.oss-cn-hangzhou.aliyuncs.com"
_FOREIGN: Final = {"type": "Transcode", "jobId": "0123456789abcdef0123456789abcdef", "state": "Success"}
"""A transcoding job's message, which no shipped handler takes."""
_POISON: Final = '{"FunctionName":"Cover","JobId":'
"""JSON that breaks off."""
_STRANGERS: Final = 2
_JOB_S: Final = 0.6
_RECONCILE_AFTER_S: Final = 3.0
"""Longer than a job takes: one that still runs is asked for again only a minute later."""
_GIVE_UP_S: Final = 13.0
_POLL_S: Final = 0.1
_MOST: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoJob:
    """One job to submit: the parameters of SubmitIProductionJob, and whether it is ordered to fail."""

    function: str
    params: str
    input: str
    output: str
    user_data: Mapping[str, Any]
    fails: bool = False


def demo_jobs() -> list[DemoJob]:
    """One job of each documented function, the first without its notification, and last one that fails."""
    functions = documented()
    lost = {"sandbox": {"notify": "lost"}}
    cover = next(function for function in functions if function.name == "Cover")
    failure = {"sandbox": {"fail": {"code": "InvalidFile", "message": "The input is no video, as the demo ordered."}}}
    return [
        DemoJob(
            function=function.name,
            params=json.dumps(params if number > 1 else {**params, **lost}),
            input=f"{_BUCKET}/{function.sample.input}",
            output=f"{_BUCKET}/out/{{source}}-{{timestamp}}-{{sequenceId}}.{function.sample.ending}",
            user_data={"order": number, "who": "demo"},
            fails=params is failure,
        )
        for number, (function, params) in enumerate(
            [*((function, function.sample.params) for function in functions), (cover, failure)], 1
        )
    ]


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards, until Ctrl-C.")] = False,
) -> None:
    """Show the whole job on this machine: no account, no settings, a few seconds.

    A local MNS and MPS run 16 jobs, one of each FunctionName, one job that fails, one duplicate delivery, one lost
    notification, one foreign message and one poison body; the real daemon handles them. One wrong request is refused.
    Ends with 0 only if all 16 results arrived typed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mns-consumer-demo-") as folder,
        # The daemon logs to a file, because the bars fill the terminal.
        (Path(folder) / "daemon.log").open("w", encoding="utf-8") as log,
    ):
        configure("info", json=True, stream=log)
        try:
            good = anyio.run(_demo, Path(folder), keep)
        finally:
            configure("warning", stream=sys.stderr)
    raise typer.Exit(ExitCode.OK if good else ExitCode.FAILURE)


async def _demo(folder: Path, keep: bool) -> bool:  # noqa: FBT001 - handed on by anyio.run
    console = wide_console()
    async with Sandbox.on_free_port(job_s=_JOB_S, create_queues=True) as sandbox:
        sandbox.account.ensure(_QUEUE)
        # Given whole: no environment and no file counts.
        settings = Settings(
            notify_url=(sandbox.notify_url(_QUEUE),),
            endpoint=sandbox.url,
            access_key_id=SecretStr(sandbox.settings.access_key_id),
            access_key_secret=SecretStr(sandbox.settings.access_key_secret),
            handler_entry_points=False,
            shipped=True,
            store=str(folder / "demo.db"),
            reconcile_after_s=_RECONCILE_AFTER_S,
            admin=keep,
            admin_port=0,
        )
        app = App(settings, find_handlers(settings))
        started = anyio.Event()
        good = False  # a signal may end everything first
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as beside:

                async def serve() -> None:
                    await app.serve(started=started)
                    beside.cancel_scope.cancel("the daemon has stopped")

                async def stop_on_signal() -> None:
                    async for _ in signals:
                        app.stop()

                beside.start_soon(serve)
                beside.start_soon(stop_on_signal)
                await started.wait()
                good = await _watch(sandbox, app, console)
                if keep:
                    _print_what_to_try(console, sandbox, app, folder)
                else:
                    app.stop()
    return good


async def _watch(sandbox: Sandbox, app: App, console: Console) -> bool:
    """Submit everything, show the progress, print the results; returns whether all are as ordered."""
    began = time.monotonic()
    orders = demo_jobs()
    submitted: dict[str, tuple[DemoJob, float]] = {}
    refusal = ""
    async with open_operators(app.settings.store_address()) as operators:
        shown = {"0 jobs have ended at MPS"}
        with _bars(console, jobs=len(orders)) as progress:
            sandbox.put(_QUEUE, base64.b64encode(json.dumps(_FOREIGN).encode()).decode())
            sandbox.put(_QUEUE, _POISON)
            with anyio.move_on_after(_GIVE_UP_S):
                refusal = await _submit_all(app.settings, orders, submitted)
                await _until_settled(sandbox, operators, submitted, progress, shown)
                # Again, as a queue may that delivers at least once.
                if (job := sandbox.jobs.get(list(submitted)[1])) is not None:
                    sandbox.notify(job)
                await _until_settled(sandbox, operators, submitted, progress, shown)
        jobs = {job.record.job_id: job for job in await operators.list_jobs(Filter(), limit=_MOST, dead=False)}
        letters = await operators.list_letters(Filter(), limit=_MOST)
    rows = [_row(order, jobs.get(job_id), at) for job_id, (order, at) in submitted.items()]
    count, first = app.metrics.registry.get_sample_value, {"queue": _QUEUE, "function": orders[0].function}
    twice = {"queue": _QUEUE, "function": orders[1].function, "outcome": "duplicate"}
    odd = _Odd(
        found=round(count("mns_consumer_reconciled_total", first) or 0),
        duplicates=round(count("mns_consumer_jobs_total", twice) or 0),
        refusal=refusal,
    )
    return _print_end(console, rows, letters, odd, time.monotonic() - began)


async def _submit_all(
    settings: Settings, orders: Sequence[DemoJob], submitted: dict[str, tuple[DemoJob, float]]
) -> str:
    """Submit each order, recorded; notes the order and the time of each job id.

    Returns:
        Why a wrong request was refused.
    """
    queue, after_s = settings.queues()[0], settings.reconcile_after_s
    # Not by a Client, which reads the settings of the environment.
    async with open_clients(queue) as clients, open_submissions(settings.store_address()) as submissions:
        submitter = Submitter(clients.mps, submissions, queue, accounts={queue.url.account}, reconcile_after_s=after_s)
        for order in orders:
            params, user_data = json.loads(order.params), order.user_data
            job = await submitter.submit(
                order.function, params, input=order.input, output=order.output, user_data=user_data, force=True
            )
            submitted[job.job_id] = (order, time.time())
        try:
            await submitter.submit("Cover", {"Model": "png"}, input=orders[-1].input, output=orders[-1].output)
        except RequestRefusedError as error:
            return error.problems[0]
    return ""


async def _until_settled(
    sandbox: Sandbox,
    operators: Operators,
    submitted: Mapping[str, tuple[DemoJob, float]],
    progress: Progress,
    shown: set[str],
) -> None:
    """Wait until every job is handled, every stranger is set aside and the queue is empty.

    Shows the progress: as bars on a terminal, elsewhere as lines that are not in ``shown`` yet.
    """
    while True:
        done = await operators.list_jobs(Filter(), limit=_MOST, dead=False)
        letters = await operators.list_letters(Filter(), limit=_MOST)
        handled = [job.record for job in done if job.record.job_id in submitted]
        ended = sum(job.has_ended for job in sandbox.jobs.all())
        counts = (len(submitted), ended, len(handled), len(letters))
        for task_id, count in zip(progress.task_ids, counts, strict=True):
            progress.update(task_id, completed=count)
        lines = [f"submitted {len(submitted)} jobs", f"{ended} jobs have ended at MPS"]
        lines += [f"handled {record.function} {record.job_id}: {record.state}" for record in handled]
        lines += [f"set aside: {_why(letter)}" for letter in letters]
        for line in lines if progress.disable else ():
            if line not in shown:
                progress.console.print(Text(line), soft_wrap=True)
                shown.add(line)
        settled = len(handled) + sum(letter.letter.job.job_id in submitted for letter in letters)
        if settled == len(submitted) and len(letters) >= _STRANGERS and not sandbox.messages(_QUEUE):
            return
        await anyio.sleep(_POLL_S)


def _bars(console: Console, *, jobs: int) -> Progress:
    """Live bars on a terminal, in the order of ``_until_settled``'s counts; nothing elsewhere."""
    columns = (SpinnerColumn(), TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    for text in ("jobs submitted to MPS", "jobs ended at MPS", "jobs handled, results typed"):
        progress.add_task(text, total=jobs)
    progress.add_task("strange messages set aside", total=_STRANGERS)
    return progress


def _why(letter: StoredLetter) -> str:
    return f"{letter.letter.reason.value}: {letter.letter.error}"


@dataclass(frozen=True, slots=True)
class _Odd:
    """What happened beside the jobs."""

    found: int  # ends that no notification reported
    duplicates: int
    refusal: str

    @property
    def is_as_ordered(self) -> bool:
        return self.found == 1 and self.duplicates == 1 and bool(self.refusal)


@dataclass(frozen=True, slots=True)
class Row:
    """One job in the table at the end; ``good`` if it ended as ordered. ``state`` is "" if no end came in time."""

    function: str
    state: str
    summary: str
    user_data: Any
    seconds: float
    good: bool


def _row(order: DemoJob, job: StoredJob | None, submitted_at: float) -> Row:
    """One job's row; good if it ended as ordered, with its result typed and its UserData back."""
    if job is None:
        return Row(order.function, "", "not handled; see what was set aside", order.user_data, 0.0, good=False)
    record = job.record
    user_data = decode_user_data(record.user_data)
    seconds = max(0.0, job.stored_at - submitted_at)
    if order.fails:
        good = record.state == JobState.FAIL
        summary = f"failed as ordered: {record.code}: {record.message}"
    else:
        about = JobStatus("", record.function, record.state, None, order.output, record.result, None, found=True)
        shown = ended_job(about)
        good = shown.problem is None and not shown.failed
        summary = shown.summary() if good else str(shown.problem)
    return Row(record.function, record.state, summary, user_data, seconds, good and user_data == order.user_data)


def _print_end(
    console: Console, rows: Sequence[Row], letters: Sequence[StoredLetter], odd: _Odd, seconds: float
) -> bool:
    table = Table(title="Jobs")
    for name in ("FunctionName", "State"):
        table.add_column(name, no_wrap=True)
    for name in ("Result", "UserData"):
        table.add_column(name, overflow="fold")
    table.add_column("Seconds", justify="right", no_wrap=True)
    for row in rows:
        style = "" if row.good else "bold red"
        table.add_row(
            Text(row.function, style),
            Text(row.state or "missing", style),
            Text(row.summary),
            Text(json.dumps(row.user_data, ensure_ascii=False)),
            f"{row.seconds:.2f}",
        )
    console.print(table)
    console.print("\nSet aside, with their raw bytes and the reason:")
    for letter in letters:
        console.print(Text(f"  {_why(letter)}"), soft_wrap=True)
    console.print(f"\nDelivered twice: {odd.duplicates} notification; its handler ran once.")
    console.print(f"Lost: {odd.found} notification; the end of its job was found by asking MPS.")
    console.print(Text(f"Refused before it was sent: {odd.refusal}"), soft_wrap=True)
    typed_count = sum(row.good for row in rows[:-1])
    good = all(row.good for row in rows) and len(letters) == _STRANGERS and odd.is_as_ordered
    console.print(f"{typed_count} of {len(rows) - 1} results arrived typed, in {seconds:.1f} s.")
    if not good:
        console.print("Not everything went as it should; see the rows in red.", style="bold red")
    return good


def _print_what_to_try(console: Console, sandbox: Sandbox, app: App, folder: Path) -> None:
    text = f"""
Still serving. MNS and MPS are at {sandbox.url}, the daemon's log is {folder / "daemon.log"}. Try:
  curl http://127.0.0.1:{app.admin_port}/metrics
  curl {sandbox.url}/_sandbox/state
  MNS_CONSUMER_ACCESS_KEY_ID=sandbox MNS_CONSUMER_ACCESS_KEY_SECRET=sandbox mns-consumer submit --function Cover\
 --input {_BUCKET}/film.mp4 --output '{_BUCKET}/{{source}}-{{sequenceId}}.jpg'\
 --endpoint {sandbox.url} --notify-url {sandbox.notify_url(_QUEUE)} --wait
Ctrl-C ends it."""
    console.print(Text(text), soft_wrap=True)
