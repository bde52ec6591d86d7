"""``mns-consumer jobs``: what is done with single jobs.

Elsewhere: the life that a job goes through (``engine.process``), looking into the ledger (``cli.jobs_ledger``).
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from consumer.cli.jobs_ledger import list_jobs, show_job
from consumer.cli.options import Said, takes_settings
from consumer.errors import ExitCode

jobs = typer.Typer(help="Look after single jobs.", no_args_is_help=True)

_HANDLED: Final = frozenset({"done", "duplicate"})


@jobs.callback()
def _group() -> None:
    """Look after single jobs."""


jobs.command(name="list")(list_jobs)
jobs.command(name="show")(show_job)


@jobs.command(name="run")
@takes_settings
def run_job(
    said: Said,
    job_id: Annotated[str, typer.Argument(metavar="JOBID", help="The job's id, as submit printed it.")],
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of several queues' settings and ledger keys to use.")
    ] = None,
) -> None:
    """Handle a job that has no message, because its notification got lost or it had no NotifyUrl.

    MPS is asked for the job; from there on everything is as if its message had come: the same handler, the same
    ledger, so a job that was handled before is not handled again.
    """
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.app import App  # noqa: PLC0415 - the same
    from consumer.cli.ready import handlers_and_queues  # noqa: PLC0415 - the same
    from consumer.daemon import set_up_logs  # noqa: PLC0415 - the same

    settings = said.settings()
    registry = handlers_and_queues(settings)
    app = App(settings, registry)
    set_up_logs(settings, registry, app)
    word = anyio.run(app.run_job, job_id, queue)
    print(word)
    raise typer.Exit(ExitCode.OK if word in _HANDLED else ExitCode.FAILURE)
