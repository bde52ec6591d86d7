"""``mns-consumer run`` and ``mns-consumer jobs run``: handle messages, or one job that has no message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer

from consumer.cli.options import SettingsFlags, missing_queue, takes_settings
from consumer.errors import ExitCode, SettingsError
from consumer.plugin.registry import Registry, Sources, discover

if TYPE_CHECKING:
    from consumer.config import Settings

_HANDLED: Final = frozenset({"done", "duplicate"})


@takes_settings
def run(flags: SettingsFlags) -> None:
    """Take messages from the queues and call the handlers.

    It ends by SIGTERM or Ctrl-C.

    A handler is a function in a file of your own: [bold]@handler("Cover")[/] over [bold]async def cover(job: Job)[/].
    Without any handler it does not start; [bold]--shipped[/] uses those that only log.

    Example: mns-consumer run --handlers ./handlers --notify-url mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/jobs
    """
    from consumer import daemon  # noqa: PLC0415 - takes 0.5 s, which `run --help` and completion need not wait for

    def read() -> tuple[Settings, Registry]:
        return _read(flags, daemon.sources_of)

    raise typer.Exit(daemon.run(*read(), read))


@takes_settings
def run_job(
    flags: SettingsFlags,
    job_id: Annotated[str, typer.Argument(metavar="JOBID", help="The job's id, as submit printed it.")],
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of several queues' settings and ledger keys to use.")
    ] = None,
) -> None:
    """Handle a job whose notification was lost or that had no NotifyUrl.

    MPS is asked for the job; from there on everything is as if its message had come: the same handler, the same
    ledger, so a job that was handled before is not handled again.
    """
    from consumer.app import App  # noqa: PLC0415 - as in run
    from consumer.daemon import set_up_logs, sources_of  # noqa: PLC0415 - as in run

    settings, registry = _read(flags, sources_of)
    app = App(settings, registry)
    set_up_logs(settings, registry, app)
    outcome = anyio.run(app.run_job, job_id, queue)
    print(outcome)
    raise typer.Exit(ExitCode.OK if outcome in _HANDLED else ExitCode.FAILURE)


def _read(flags: SettingsFlags, sources_of: Callable[[Settings], Sources]) -> tuple[Settings, Registry]:
    """Read the settings and find the handlers.

    Raises:
        SettingsError: One line for each problem, so that all of them can be repaired before the next try.
    """
    settings = flags.load()
    problems = missing_queue(settings)
    try:
        registry = discover(sources_of(settings))
    except SettingsError as error:
        raise SettingsError(*problems, *error.problems) from error
    if problems:
        raise SettingsError(*problems)
    return settings, registry
