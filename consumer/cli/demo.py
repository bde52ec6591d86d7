"""``mns-consumer demo``: the whole job on this machine, with no account.

    sandbox (MNS and MPS) <- submit 17 jobs over MPS's API, put two strange messages
    daemon (the real one) -> receives, decodes, asks for results, calls the shipped handlers, sets aside
    the store             -> what became of everything: the table

Everything runs in this process and over real sockets; only the store is a temporary file.

Elsewhere: the jobs (``cli.demo_jobs``), what is seen (``cli.demo_view``), the daemon (``app``).
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.errors import ExitCode
from consumer.job_state import JobState

if TYPE_CHECKING:
    from rich.console import Console

    from consumer.app import App
    from consumer.cli.demo_jobs import DemoJob
    from consumer.cli.demo_view import Row, View
    from consumer.config import Settings
    from consumer.sandbox import Sandbox
    from consumer.store.ledger import Filter
    from consumer.store.queries import Operators, StoredJob, StoredLetter

_QUEUE: Final = "demo"
_STRANGERS: Final = 2
_JOB_S: Final = 0.6
_GIVE_UP_S: Final = 11.0
_LOOK_S: Final = 0.1
_MOST: Final = 1000


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards, until Ctrl-C.")] = False,
) -> None:
    """Show the whole job on this machine: no account, no settings, a few seconds.

    A local MNS and MPS run 16 jobs, one of each FunctionName, one job that fails, one duplicate delivery, one foreign
    message and one poison body; the real daemon handles them. Ends with 0 only if all 16 results arrived typed.
    """
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.ops.logs import configure  # noqa: PLC0415 - the same

    with (
        tempfile.TemporaryDirectory(prefix="mns-consumer-demo-") as folder,
        # The daemon's own lines go to a file: among the bars they could not be read.
        (Path(folder) / "daemon.log").open("w", encoding="utf-8") as log,
    ):
        configure("info", json=True, stream=log)
        try:
            good = anyio.run(_demo, Path(folder), keep)
        finally:
            configure("warning", stream=sys.stderr)
    raise typer.Exit(ExitCode.OK if good else ExitCode.FAILURE)


async def _demo(folder: Path, keep: bool) -> bool:  # noqa: FBT001 - handed on by anyio.run
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.app import App  # noqa: PLC0415 - the same
    from consumer.cli.consoles import wide_console  # noqa: PLC0415 - the same
    from consumer.daemon import sources_of  # noqa: PLC0415 - the same
    from consumer.plugin.registry import discover  # noqa: PLC0415 - the same
    from consumer.sandbox import Sandbox  # noqa: PLC0415 - the same

    console = wide_console()
    async with Sandbox.on_free_port(job_s=_JOB_S) as sandbox:
        sandbox.account.ensure(_QUEUE)
        settings = _settings(sandbox, folder, keep=keep)
        app = App(settings, discover(sources_of(settings)))
        started = anyio.Event()
        good = False  # a signal may end everything before it is known
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as beside:

                async def serve() -> None:
                    await app.serve(started=started)
                    # Stopped: by the end of the demo, or by a signal before it.
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


def _settings(sandbox: Sandbox, folder: Path, *, keep: bool) -> Settings:
    """Settings of the demo's own: nothing of the environment counts."""
    from pydantic import SecretStr  # noqa: PLC0415 - quick --help

    from consumer.config import Settings  # noqa: PLC0415 - the same

    return Settings(
        notify_url=(sandbox.notify_url(_QUEUE),),
        endpoint=sandbox.url,
        access_key_id=SecretStr(sandbox.settings.access_key_id),
        access_key_secret=SecretStr(sandbox.settings.access_key_secret),
        handler_entry_points=False,
        shipped=True,
        store=str(folder / "demo.db"),
        admin=keep,
        admin_port=0,
    )


async def _watch(sandbox: Sandbox, app: App, console: Console) -> bool:
    """Submit everything, show how it goes, print what became of it; tells whether all is as it should be."""
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.cli.demo_jobs import POISON_BODY, demo_jobs, foreign_body  # noqa: PLC0415 - the same
    from consumer.cli.demo_view import View  # noqa: PLC0415 - the same
    from consumer.store.open import make_operators  # noqa: PLC0415 - the same

    began = time.monotonic()
    orders = demo_jobs()
    submitted: dict[str, tuple[DemoJob, float]] = {}
    operators = make_operators(app.settings.store_target())
    with View(console, jobs=len(orders), strangers=_STRANGERS) as view:
        sandbox.put(_QUEUE, foreign_body())
        sandbox.put(_QUEUE, POISON_BODY)
        with anyio.move_on_after(_GIVE_UP_S):
            await _submit_all(app.settings, orders, submitted)
            await _until_settled(sandbox, operators, submitted, view)
            _notify_again(sandbox, next(iter(submitted)))
            await _until_settled(sandbox, operators, submitted, view)
    jobs = {job.record.job_id: job for job in await operators.list_jobs(_any(), limit=_MOST) if not job.dead}
    letters = await operators.list_letters(_any(), limit=_MOST)
    rows = [_row(order, jobs.get(job_id), at) for job_id, (order, at) in submitted.items()]
    duplicates = app.metrics.registry.get_sample_value(
        "mns_consumer_jobs_total", {"queue": _QUEUE, "function": orders[0].function, "outcome": "duplicate"}
    )
    return _print_end(console, rows, letters, round(duplicates or 0), time.monotonic() - began)


async def _submit_all(
    settings: Settings, orders: Sequence[DemoJob], submitted: dict[str, tuple[DemoJob, float]]
) -> None:
    """Submit over MPS's API; notes each job id with its order and the time."""
    import json  # noqa: PLC0415 - quick --help

    from consumer.cloud.clients import open_clients  # noqa: PLC0415 - the same

    lane = settings.all_lanes()[0]
    async with open_clients(lane) as clients:
        for order in orders:
            answer = await clients.mps.submit(
                function=order.function,
                params=order.params,
                input=order.input,
                output=order.output,
                user_data=json.dumps(order.user_data),
                notify_url=str(lane.url),
            )
            submitted[answer.job_id] = (order, time.time())


async def _until_settled(
    sandbox: Sandbox, operators: Operators, submitted: Mapping[str, tuple[DemoJob, float]], view: View
) -> None:
    """Look until every job is handled, every stranger is set aside and the queue is empty."""
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.cli.demo_view import Look  # noqa: PLC0415 - the same

    while True:
        done = [job for job in await operators.list_jobs(_any(), limit=_MOST) if not job.dead]
        letters = await operators.list_letters(_any(), limit=_MOST)
        look = Look(
            submitted=len(submitted),
            ended=sum(job.has_ended for job in sandbox.jobs.all()),
            handled={
                job_id: f"handled {job.record.function} {job_id}: {job.record.state}"
                for job in done
                if (job_id := job.record.job_id) in submitted and job_id is not None
            },
            set_aside={letter.id: f"set aside: {_why(letter)}" for letter in letters},
        )
        view.show(look)
        settled = len(look.handled) + sum(letter.letter.job.job_id in submitted for letter in letters)
        if settled == len(submitted) and len(letters) >= _STRANGERS and not sandbox.messages(_QUEUE):
            return
        await anyio.sleep(_LOOK_S)


def _notify_again(sandbox: Sandbox, job_id: str) -> None:
    """Deliver a job's notification a second time, as a queue that delivers at least once may."""
    job = sandbox.jobs.get(job_id)
    if job is not None:
        sandbox.notify(job)


def _any() -> Filter:
    from consumer.store.ledger import Filter  # noqa: PLC0415 - quick --help

    return Filter()


def _why(letter: StoredLetter) -> str:
    return f"{letter.letter.reason.value}: {letter.letter.error}"


def _row(order: DemoJob, job: StoredJob | None, submitted_at: float) -> Row:
    """One job's row; good when it ended as ordered, with its result typed and its UserData back."""
    from consumer.cli.demo_view import Row  # noqa: PLC0415 - quick --help
    from consumer.cli.typed import typed  # noqa: PLC0415 - the same
    from consumer.message.notification import decode_user_data  # noqa: PLC0415 - the same

    if job is None:
        return Row(order.function, "", "not handled; see what was set aside", order.user_data, 0.0, good=False)
    record = job.record
    user_data = decode_user_data(record.user_data)
    seconds = max(0.0, job.stored_at - submitted_at)
    back = user_data == order.user_data
    if order.fails:
        summary = f"failed as ordered: {record.code}: {record.message}"
        return Row(
            record.function, record.state, summary, user_data, seconds, good=back and record.state == JobState.FAIL
        )
    shown = typed(record.function, record.result, order.output)
    good = back and shown.fits and record.state == JobState.SUCCESS
    return Row(record.function, record.state, shown.summary if good else str(shown.problem), user_data, seconds, good)


def _print_end(
    console: Console, rows: Sequence[Row], letters: Sequence[StoredLetter], duplicates: int, seconds: float
) -> bool:
    from rich.text import Text  # noqa: PLC0415 - quick --help

    from consumer.cli.demo_view import print_rows  # noqa: PLC0415 - the same

    print_rows(console, rows)
    console.print("\nSet aside, with their raw bytes and the reason:")
    for letter in letters:
        console.print(Text(f"  {_why(letter)}"), soft_wrap=True)
    console.print(f"\nDelivered twice: {duplicates} notification; its handler ran once.")
    typed_count = sum(row.good for row in rows[:-1])
    good = all(row.good for row in rows) and len(letters) == _STRANGERS and duplicates == 1
    console.print(f"{typed_count} of {len(rows) - 1} results arrived typed, in {seconds:.1f} s.")
    if not good:
        console.print("Not everything went as it should; see the rows in red.", style="bold red")
    return good


def _print_what_to_try(console: Console, sandbox: Sandbox, app: App, folder: Path) -> None:
    from rich.text import Text  # noqa: PLC0415 - quick --help

    submit = (
        "MNS_CONSUMER_ACCESS_KEY_ID=sandbox MNS_CONSUMER_ACCESS_KEY_SECRET=sandbox mns-consumer submit --function Cover"
        f" --endpoint {sandbox.url} --notify-url {sandbox.notify_url(_QUEUE)} --wait"
    )
    lines = (
        "",
        f"Still serving. MNS and MPS are at {sandbox.url}, the daemon's log is {folder / 'daemon.log'}. Try:",
        f"  curl http://127.0.0.1:{app.admin_port}/metrics",
        f"  curl {sandbox.url}/_sandbox/state",
        f"  {submit}",
        "Ctrl-C ends it.",
    )
    for line in lines:
        console.print(Text(line), soft_wrap=True)
