"""``mns-consumer run``: the daemon.

Elsewhere: everything it does (``app``), as a process (``daemon``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from consumer.cli.options import Said, takes_settings

if TYPE_CHECKING:
    from consumer.config import Settings
    from consumer.plugin.registry import Registry


@takes_settings
def run(said: Said) -> None:
    """Take messages from the queues and call the handlers, until SIGTERM or Ctrl-C.

    A handler is a function in a file of your own: [bold]@handler("Cover")[/] over [bold]async def cover(job: Job)[/].
    Without any handler it does not start; [bold]--shipped[/] uses those that only log and keep.

    Example: mns-consumer run --handlers ./handlers --notify-url mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/jobs
    """
    from consumer.cli.ready import handlers_and_queues  # noqa: PLC0415 - quick --help
    from consumer.daemon import run as run_daemon  # noqa: PLC0415 - the same

    def read() -> tuple[Settings, Registry]:
        settings = said.settings()
        return settings, handlers_and_queues(settings)

    raise typer.Exit(run_daemon(*read(), read))
