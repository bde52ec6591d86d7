"""Take a command line to its command, and make an exit code and plain lines of whatever goes wrong.

Nothing heavy is imported here: each command loads what it needs inside its own function, so that ``--help`` and
``--version`` answer at once and a daemon that starts again polls again soon.

Elsewhere: each command in the module of its own name, the flags that several share (``cli.options``).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from consumer.cli.check import check
from consumer.cli.closed_streams import replace_closed_streams
from consumer.cli.dead_letters import dead_letters
from consumer.cli.demo import demo
from consumer.cli.functions import functions
from consumer.cli.health import health
from consumer.cli.jobs import jobs
from consumer.cli.manifests import manifests
from consumer.cli.queue import queue
from consumer.cli.run import run
from consumer.cli.sandbox import sandbox
from consumer.cli.submit import submit
from consumer.errors import ConsumerError, ExitCode, SettingsError
from consumer.ops.escape import printable_block
from consumer.secret_settings import refuse_secrets
from consumer.version import version

_INTERRUPTED: Final = 130
_GC_AFTER: Final = 50_000
"""What a command imports stays. To look for garbage among it meanwhile takes a twentieth of a start."""

_HELP = """
Take the notifications of Alibaba Cloud MPS jobs from MNS queues and call your handlers.

[bold]See it work, without an account[/]

  mns-consumer demo

[bold]Consume your own queue[/]

  export ALIBABA_CLOUD_ACCESS_KEY_ID=... ALIBABA_CLOUD_ACCESS_KEY_SECRET=...
  mns-consumer run --handlers ./handlers --notify-url mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME

Every setting can also stand in the environment (MNS_CONSUMER_NOTIFY_URL=...) or in a TOML file (--config).
Exit codes: 0 done, 1 failed, 2 wrong command line, 75 store or admin port taken, 76 a submitted job may or may not
exist, 78 wrong settings or handlers.
"""

app = typer.Typer(
    name="mns-consumer",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_DAEMON: Final = "The daemon"
_TRY: Final = "Trying it out"
_ASK: Final = "Jobs and handlers"
_OPERATE: Final = "Operations"

app.command(rich_help_panel=_DAEMON)(run)
app.command(rich_help_panel=_DAEMON)(check)
app.command(rich_help_panel=_DAEMON)(health)
app.command(rich_help_panel=_TRY)(demo)
app.command(rich_help_panel=_TRY)(sandbox)
app.command(rich_help_panel=_ASK)(submit)
app.command(rich_help_panel=_ASK)(functions)
app.add_typer(jobs, name="jobs", rich_help_panel=_ASK)
app.add_typer(dead_letters, name="dead-letters", rich_help_panel=_OPERATE)
app.add_typer(queue, name="queue", rich_help_panel=_OPERATE)
app.command(rich_help_panel=_OPERATE)(manifests)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value alone
    if asked:
        print(f"mns-consumer {version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; default: those of the process.

    Returns:
        The exit code (``errors.ExitCode``, or 130 after Ctrl-C).
    """
    replace_closed_streams()
    gc.set_threshold(_GC_AFTER, *gc.get_threshold()[1:])
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        refuse_secrets(words)
        app(args=words, prog_name="mns-consumer")
    except SystemExit as end:
        return _code_of(end)
    except ConsumerError as error:
        return _tell(error)
    except BaseExceptionGroup as group:
        # Tasks that ran side by side report together; what this program raises on purpose is told in plain lines.
        ours, rest = group.split(ConsumerError)
        if ours is None or rest is not None:
            raise
        return _tell(*_flat(ours))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return ExitCode.OK


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return ExitCode.OK
    return end.code if isinstance(end.code, int) else ExitCode.FAILURE


def _tell(*errors: ConsumerError) -> int:
    """Write each problem on a line of its own; the first error's exit code counts."""
    for error in errors:
        for problem in error.problems if isinstance(error, SettingsError) else (str(error),):
            # What is quoted in it may come from outside; a further line (a traceback's) stands behind the margin.
            print(f"error: {printable_block(problem).strip()}", file=sys.stderr)
    return errors[0].exit_code


def _flat(group: BaseExceptionGroup[ConsumerError]) -> list[ConsumerError]:
    found: list[ConsumerError] = []
    for error in group.exceptions:
        found.extend(_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
