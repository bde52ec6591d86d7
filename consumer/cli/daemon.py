"""``mns-consumer run``, ``jobs run`` and ``health``: handle messages, handle one job, ask the daemon that runs here.

``health`` is for container health checks and scripts: it loads neither the daemon nor an HTTP library, and gives up on
a daemon that does not answer.
"""

from __future__ import annotations

import http.client
import json
import re
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

import anyio
import typer

from consumer.cli.options import (
    OF_HANDLERS,
    OF_QUEUE,
    OF_STORE,
    SettingsFlags,
    find_handlers,
    missing_queue,
    queue_named,
    takes_settings,
)
from consumer.config import Settings
from consumer.errors import ConsumerError, ExitCode, SettingsError, StoreBusyError, UsageError
from consumer.ops.control import NoDaemonError, ask
from consumer.ops.sanitize import json_text, printable
from consumer.plugin.registry import Registry

_HANDLED: Final = frozenset({"done", "duplicate"})
_TIMEOUT_S: Final = 4.0
"""Less than the five seconds that a container's health check has before it is killed."""
_BODY_LIMIT_BYTES: Final = 65_536
_LINE_LIMIT: Final = 400
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}  # noqa: S104 - where not to ask
_WORD: Final = {"/livez": "alive", "/readyz": "ready"}


class _Address(NamedTuple):
    host: str
    """Name or address, IPv6 without brackets."""
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.path}"


class _Check(NamedTuple):
    name: str
    ok: bool
    detail: str


@takes_settings()
def run(flags: SettingsFlags) -> None:
    """Take messages from the queues and call the handlers.

    It ends by SIGTERM or Ctrl-C.

    A handler is a function in a file of your own: [bold]@handler("Cover")[/] over [bold]async def cover(job: Job)[/].
    Without any handler it does not start; [bold]--shipped[/] uses those that only log.

    Example: mns-consumer run --handlers ./handlers --notify-url mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/jobs
    """
    from consumer import daemon  # noqa: PLC0415 - takes 0.5 s, which help, completion and health need not wait for

    def read() -> tuple[Settings, Registry]:
        return _read(flags, for_run=True)

    daemon.run(*read(), read)


@takes_settings(*OF_QUEUE, *OF_HANDLERS, *OF_STORE)
def run_job(
    flags: SettingsFlags,
    job_id: Annotated[str, typer.Argument(metavar="JOBID", help="The job's id, as submit printed it.")],
    queue: Annotated[
        str | None,
        typer.Option(metavar="QUEUE", help="Of which of several queues: its name, or ACCOUNT/REGION/NAME."),
    ] = None,
) -> None:
    """Handle a job whose notification was lost or that had no NotifyUrl.

    MPS is asked for the job; from there on everything is as if its message had come: the same handler, the same
    ledger, so a job that was handled before is not handled again. A daemon that runs here on the same store and queue
    handles it, with its own settings and handlers.
    """
    settings = flags.load()
    outcome = _run_in_daemon(settings, job_id, queue) or _run_here(settings, job_id, queue)
    print(outcome)
    raise typer.Exit(ExitCode.OK if outcome in _HANDLED else ExitCode.FAILURE)


def _run_in_daemon(settings: Settings, job_id: str, queue: str | None) -> str | None:
    """Hand a job to the daemon that runs here; ``None`` if none does, or one on another store or queue."""
    path = settings.socket_path()
    if path is None or not settings.queues():
        return None
    identity = queue_named(settings, queue).url.identity
    request = {"command": "run_job", "job_id": job_id, "queue": identity, "store": settings.store_name()}
    try:
        outcome: str | None = ask(path, request, timeout_s=None)["outcome"]
    except NoDaemonError:
        return None
    return outcome


def _run_here(settings: Settings, job_id: str, queue: str | None) -> str:
    from consumer.app import App  # noqa: PLC0415 - as in run
    from consumer.daemon import set_up_logs  # noqa: PLC0415 - as in run

    app = App(settings, _handlers_of(settings))
    set_up_logs(app)
    try:
        return anyio.run(app.run_job, job_id, queue)
    except StoreBusyError:
        path = settings.socket_path() or "control_socket is not set"
        raise StoreBusyError(
            f"store {settings.store_address()} belongs to a daemon that runs, and none with this store and queue"
            f" answers on its control socket ({path}): use the daemon's own settings, or stop it for this command"
        ) from None


def _read(flags: SettingsFlags, *, for_run: bool = False) -> tuple[Settings, Registry]:
    """Read the settings and find the handlers.

    Raises:
        SettingsError: One line for each problem, so that all of them can be repaired before the next try.
    """
    settings = flags.load(for_run=for_run)
    return settings, _handlers_of(settings)


def _handlers_of(settings: Settings) -> Registry:
    """Find the handlers; raises as ``_read``, also if the settings name no queue."""
    problems = missing_queue(settings)
    try:
        registry = find_handlers(settings)
    except SettingsError as error:
        raise SettingsError(*problems, *error.problems) from error
    if problems:
        raise SettingsError(*problems)
    return registry


@takes_settings("admin_port")
def health(
    flags: SettingsFlags,
    *,
    ready: Annotated[
        bool, typer.Option("--ready/--live", help="Does it handle messages, or (the default) does it make progress?")
    ] = False,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Its admin server, in place of admin_host and admin_port.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all checks.")] = False,
) -> None:
    """Ask the daemon that runs here whether it is well; exits with 0 or 1.

    Example: mns-consumer health --ready --url http://127.0.0.1:9464
    """
    path = "/readyz" if ready else "/livez"
    address = _of_settings(flags, path) if url is None else _of_url(url, path)
    is_well, checks = _ask(address)
    word = _WORD.get(address.path, "well")
    if as_json:
        print(json_text({"ok": is_well, "checks": [check._asdict() for check in checks]}))
        raise typer.Exit(ExitCode.OK if is_well else ExitCode.FAILURE)
    if not is_well:
        failing = "; ".join(f"{check.name} ({check.detail})" for check in checks if not check.ok)
        raise ConsumerError(_line(f"not {word}: {failing}"))
    print(_line(f"{word}: {', '.join(check.name for check in checks)}"))


def _of_url(url: str, path: str) -> _Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    else:
        path = path if parts.path in {"", "/"} else parts.path
    if not host or not url.startswith("http://") or re.search(r"[^!-~]", url):
        raise UsageError(f"--url {url!r}: expected http://HOST:PORT")
    return _Address(host, port, path)


def _of_settings(flags: SettingsFlags, path: str) -> _Address:
    try:
        settings = flags.load()
    except SettingsError as error:
        # 1 and not 78: a health check has two answers.
        raise ConsumerError(f"no address to ask: {'; '.join(error.problems)}") from None
    if not settings.admin:
        raise ConsumerError("can't ask: admin is false, so the daemon serves no health; set it, or say --url")
    if settings.admin_port == 0:
        raise ConsumerError("no address to ask: admin_port is 0, any free one; set it, or say --url")
    return _Address(_ANY_ADDRESS.get(settings.admin_host, settings.admin_host), settings.admin_port, path)


def _ask(address: _Address) -> tuple[bool, list[_Check]]:
    """Ask; returns whether the daemon is well, and its checks.

    Raises:
        ConsumerError: No daemon answers.
    """
    word = _WORD.get(address.path, "well")
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", address.path)
        answer = connection.getresponse()
        status, body = answer.status, answer.read(_BODY_LIMIT_BYTES)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise ConsumerError(_line(f"not {word}: no answer from {address}: {why}")) from None
    finally:
        connection.close()
    checks = _checks(body)
    if status == http.client.FORBIDDEN:
        raise ConsumerError(
            _line(f"not {word}: {address} does not answer by this name: use its IP address, or set admin_allowed_hosts")
        )
    if checks is None or status not in {http.client.OK, http.client.SERVICE_UNAVAILABLE}:
        raise ConsumerError(_line(f"not {word}: {address} is no daemon's admin server; it answered {status}"))
    return status == http.client.OK, checks


def _checks(body: bytes) -> list[_Check] | None:
    """The checks of an answer; ``None`` if it is not a daemon's."""
    try:
        found = json.loads(body)["checks"]
        return [_Check(str(check["name"]), check["ok"] is True, str(check["detail"])) for check in found]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _line(text: str) -> str:
    """One printable line of a bounded length."""
    return printable(text[:_LINE_LIMIT])[:_LINE_LIMIT]
