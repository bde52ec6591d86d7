"""Find the command, run it, and turn errors into plain lines and an exit code.

``_COMMANDS`` lists every command. Its module is imported when it is called or asked for help, and not before: so
``--help`` answers at once, and a daemon that restarts polls again soon.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import io
import os
import sys
import syslog
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from consumer.errors import ConsumerError, ExitCode, UsageError, flattened
from consumer.ops.log_stream import is_journal
from consumer.ops.sanitize import printable_block
from consumer.settings_sources import refuse_secrets

_INTERRUPTED: Final = 130
_STANDARD_STREAMS: Final = 3
_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG})
"""Why a file that takes the output refuses it."""

_HELP: Final = """
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
_DAEMON: Final = "The daemon"
_TRY: Final = "Trying it out"
_JOBS: Final = "Jobs and handlers"
_OPERATE: Final = "Operations"


class _Command(NamedTuple):
    """One command; ``panel`` is where ``--help`` shows it."""

    name: str
    target: str
    """``module:function`` in this package."""
    help: str
    """The first line of the function's docstring."""
    panel: str | None = None


_COMMANDS: Final = (
    _Command("run", "daemon:run", "Take messages from the queues and call the handlers.", _DAEMON),
    _Command(
        "check", "check:check", "Check whether run would work: settings, handlers, store, queues, rights.", _DAEMON
    ),
    _Command(
        "health", "daemon:health", "Ask the daemon that runs here whether it is well; exits with 0 or 1.", _DAEMON
    ),
    _Command(
        "status", "control:status", "Show what the running daemon does: jobs in flight, outages, settings.", _DAEMON
    ),
    _Command("reload", "control:reload", "Let the running daemon reload; exits with 78 if it refuses.", _DAEMON),
    _Command("demo", "demo:demo", "Show the whole job on this machine: no account, no settings, a few seconds.", _TRY),
    _Command("sandbox", "sandbox:sandbox", "Serve a local MNS and MPS: no account, nothing leaves this machine.", _TRY),
    _Command("submit", "submit:submit", "Submit one job to MPS; prints its JobId.", _JOBS),
    _Command(
        "functions", "functions:functions", "List each FunctionName with its handler and its result's fields.", _JOBS
    ),
    _Command("jobs list", "records:list_jobs", "List the jobs that have ended, or by --state those that run or retry."),
    _Command(
        "jobs show",
        "records:show_job",
        "Show one job: its runs, its end with UserData and result, or its next try.",
    ),
    _Command("jobs run", "daemon:run_job", "Handle a job whose notification was lost or that had no NotifyUrl."),
    _Command(
        "jobs track", "submissions:track", "Record jobs that others submitted, so that the daemon finds their ends."
    ),
    _Command("dead-letters list", "records:list_letters", "List dead letters, the latest last."),
    _Command(
        "dead-letters groups",
        "records:group_letters",
        "Group dead letters by the cause of their error, the largest group first.",
    ),
    _Command(
        "dead-letters stats",
        "records:count_letters",
        "Count dead letters by function and reason, with the age of the oldest and the latest.",
    ),
    _Command("dead-letters show", "records:show_letter", "Show one dead letter with its error, traceback and body."),
    _Command("dead-letters replay", "records:replay", "Send dead letters to their queues again."),
    _Command("dead-letters export", "records:export", "Export dead letters as JSON lines, bodies included."),
    _Command("dead-letters purge", "records:purge", "Remove dead letters for good; their jobs stay ended."),
    _Command("queue stats", "queue:stats", "Show how each queue is set up and how many messages it holds."),
    _Command("queue peek", "queue:peek", "Show messages that wait, decoded, without receiving them."),
    _Command("queue send", "queue:send", "Send one message to a queue; prints its MessageId."),
    _Command("migrate", "migrate:migrate", "Bring the store's tables to this program's revision.", _OPERATE),
    _Command("store check", "store:check", "Check whether the store is whole; exits with 0 or 1."),
    _Command(
        "store backup", "store:backup", "Copy an SQLite store into a new file and check the copy; the daemon may run."
    ),
    _Command(
        "store info", "store:info", "Show where the store is, its size, and how many jobs and dead letters it holds."
    ),
    _Command("docs", "pages:docs", "Print a page of the documentation, or list the pages.", _OPERATE),
    _Command("manifests", "pages:manifests", "Print a manifest for Kubernetes, KEDA, Prometheus or Grafana.", _OPERATE),
)
_GROUPS: Final = {
    "jobs": ("Show the jobs that have ended, and handle one without its message.", _JOBS),
    "dead-letters": ("Show, replay, export and purge dead letters.", _OPERATE),
    "queue": ("Show the queues and their messages, and send one.", _OPERATE),
    "store": ("Check, back up and describe the store.", _OPERATE),
}
_MEANT: Final = {
    **dict.fromkeys(("dlq", "letters", "dead"), "see: mns-consumer dead-letters list"),
    **dict.fromkeys(("retry", "replay", "redrive"), "see: mns-consumer dead-letters replay"),
    **dict.fromkeys(("ps", "top"), "see: mns-consumer status, or mns-consumer jobs list --state running"),
    **dict.fromkeys(("list", "ls"), "see: mns-consumer jobs list"),
    **dict.fromkeys(("logs", "log", "tail"), "it logs to stderr; under systemd see: journalctl -u mns-consumer"),
    **dict.fromkeys(("start", "serve", "worker"), "see: mns-consumer run"),
    **dict.fromkeys(("stop", "restart"), "send SIGTERM, or see: systemctl --help"),
}
"""What other tools call it."""
_MEANT_IN_GROUP: Final = {
    **dict.fromkeys(
        (("jobs", "retry"), ("jobs", "replay"), ("jobs", "requeue")),
        "see: mns-consumer dead-letters replay --job-id JOBID, or for a job that has not ended: mns-consumer jobs run",
    ),
    **dict.fromkeys((("jobs", "ls"), ("jobs", "ps")), "see: mns-consumer jobs list"),
    **dict.fromkeys((("dead-letters", "retry"), ("dead-letters", "redrive")), "see: mns-consumer dead-letters replay"),
}
"""The same for a command of a group."""
_FLAGS_OF_COMMANDS: Final = frozenset({"--instance", "--config", "--set", "--store", "--socket", "--notify-url"})
_RICH: Final[Mapping[str, Any]] = {
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["--help", "-h"]},
}


class _Root(TyperGroup):
    """All commands; one that other tools have says what stands for it here."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a usage error where there is none."""
        if args and (advice := _MEANT.get(args[0])) is not None:
            raise UsageError(f"no such command: {args[0]}; {advice}")
        return super().resolve_command(ctx, args)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Make the context; a flag of the commands that stands before the command is named."""
        if args and args[0].partition("=")[0] in _FLAGS_OF_COMMANDS:
            flag = args[0].partition("=")[0]
            raise UsageError(f"{flag} comes after the command: mns-consumer COMMAND {flag} VALUE")
        return super().make_context(info_name, args, parent, **extra)


class _Group(TyperGroup):
    """The commands of a group; as ``_Root``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a usage error where there is none."""
        if args and (advice := _MEANT_IN_GROUP.get((str(self.name), args[0]))) is not None:
            raise UsageError(f"no such command: {self.name} {args[0]}; {advice}")
        return super().resolve_command(ctx, args)


class _LazyCommand(TyperCommand):
    """A command whose module is imported when it gets its arguments; before that it has a name and a help line."""

    def __init__(self, command: _Command) -> None:
        super().__init__(command.name.split()[-1], help=command.help, rich_help_panel=command.panel, **_RICH)
        self._target = command.target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Make the context of the real command; the parser goes on with that one."""
        try:
            return self.load().make_context(info_name, args, parent, **extra)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's, by which typer reads choices
            raise

    def load(self) -> Any:
        """Import the module and make the real command."""
        module, function = self._target.split(":")
        found = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **_RICH)
        called = getattr(importlib.import_module(f"consumer.cli.{module}"), function)
        # A paragraph is laid out for the terminal's width, not for the source's.
        paragraphs = inspect.cleandoc(called.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        found.command(self.name, help=text)(called)
        command: Any = typer.main.get_command(found)
        for each in command.params:
            if getattr(each, "is_flag", False):
                each.metavar = ""  # a switch takes no value
        return command


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value alone
    if asked:
        print(f"mns-consumer {version('mns-consumer')}")
        raise typer.Exit


def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def _build() -> Any:
    """The whole command line, with every command still to be loaded."""
    made = typer.Typer(
        name="mns-consumer", cls=_Root, help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, **_RICH
    )
    made.callback()(_options)
    top: Any = typer.main.get_command(made)
    groups: dict[str, TyperGroup] = {}
    for command in _COMMANDS:
        group, _, rest = command.name.partition(" ")
        if not rest:
            top.add_command(_LazyCommand(command))
            continue
        if group not in groups:
            text, panel = _GROUPS[group]
            groups[group] = _Group(name=group, help=text, no_args_is_help=True, rich_help_panel=panel, **_RICH)
            top.add_command(groups[group])
        groups[group].add_command(_LazyCommand(command))
    return top


app = _build()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process's arguments.

    Returns:
        The exit code (``errors.ExitCode``, or 130 after Ctrl-C).
    """
    replace_closed_streams()
    _outlive_reader()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return ExitCode.FAILURE
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _drop_output()
        return _print_errors([ConsumerError(f"the output can't be written: {error.strerror}")])
    return code


def _run(words: Sequence[str]) -> int:
    try:
        refuse_secrets(words)
        app(args=words, prog_name="mns-consumer")
    except SystemExit as end:
        if end.code is None:
            return ExitCode.OK
        return end.code if isinstance(end.code, int) else ExitCode.FAILURE
    except ConsumerError as error:
        return _print_errors([error])
    except BaseExceptionGroup as group:
        # Tasks that run side by side fail together. Only errors that we raise on purpose become plain lines.
        ours, rest = group.split(ConsumerError)
        if ours is None or rest is not None:
            raise
        return _print_errors(list(flattened(ours)))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return ExitCode.OK


class _Output(io.FileIO):
    """Stdout. When its reader has gone, what is still printed goes nowhere, and the command goes on to its end.

    So the exit code is the command's own, however much the reader took; and no change is left half made.
    """

    def write(self, data: Any) -> int:
        """Write, or drop all of it."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _drop_output()
            return len(data)


def _outlive_reader() -> None:
    old = sys.stdout
    # A test's stream is left alone, and so is one that this function has made.
    if old is not sys.__stdout__ or not isinstance(old, io.TextIOWrapper) or old.isatty():
        return
    old.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


def _drop_output() -> None:
    """Let what is still to be written go nowhere, so that the interpreter's end does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print_errors(errors: Sequence[ConsumerError]) -> int:
    """Print each problem on a line of its own; returns the first error's exit code."""
    priority = "<3>" if is_journal(sys.stderr) else ""  # so that journalctl -p err shows it: sd-daemon(3)
    for error in errors:
        for problem in error.problems:
            # It may quote foreign text; further lines, such as a traceback's, are indented.
            for line in f"error: {printable_block(problem).strip()}".split("\n"):
                print(f"{priority}{line}", file=sys.stderr)
    return errors[0].exit_code


class SystemLog(io.TextIOBase):
    """A stream into the system's log."""

    def write(self, text: str) -> int:
        """Send each line that is not empty."""
        for line in text.splitlines():
            if line.strip():
                syslog.syslog(syslog.LOG_ERR, f"mns-consumer: {line}")
        return len(text)


def replace_closed_streams() -> None:
    """Open those of stdin, stdout and stderr that were closed before the program started.

    The next opened file gets the lowest free number: without this, a library that writes to stderr would write into
    the store. Errors go to stdout if stderr is closed, or to the system's log.
    """
    for descriptor in range(_STANDARD_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given out: this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = sys.stdout if sys.stdout is not None else SystemLog()
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
