"""The control socket: commands on this machine ask the daemon that runs, over a Unix socket.

One JSON object on a line each way: a request with its ``command``, then an answer, which has ``problems`` and an
``exit_code`` where the command failed. A connection serves one request. The socket has the mode 0600, in a folder that
only its user may write to; on Linux its client must be of the same user or root as well.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import structlog
from anyio.abc import TaskStatus

from consumer.errors import ConsumerError, ExitCode, SettingsError, UsageError
from consumer.ops.sanitize import SECRETS, json_text

log = structlog.stdlib.get_logger(__name__)

Command: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Answers one request; raises ``ConsumerError``."""

_LONGEST_PATH: Final = 103
"""Bytes that every system takes for a socket's path; Linux takes 107."""
_REQUEST_BYTES: Final = 8_192
_ANSWER_BYTES: Final = 16 * 1024**2
_TALK_S: Final = 5.0
"""How long a client may take to send its request, and to read its answer."""
_CLIENTS: Final = 32
_PAUSE_S: Final = 0.2


class SocketTakenError(ConsumerError):
    """Another daemon listens there."""


class NoDaemonError(ConsumerError):
    """No daemon listens there."""


class NotNowError(ConsumerError):
    """The daemon starts or stops."""

    exit_code = ExitCode.TEMPORARY


_KINDS: Final = {kind.exit_code: kind for kind in (ConsumerError, UsageError, NotNowError, SettingsError)}


class ControlSocket:
    """The daemon's end.

    Raises:
        SettingsError: The path is too long, or its folder is not safe or can't be used.
        SocketTakenError: Another daemon listens there.
    """

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._clients = 0
        self._listener = _listen(path)
        self._file = path.stat().st_ino

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled, then remove the socket."""
        loop = asyncio.get_running_loop()
        try:
            task_status.started()
            async with anyio.create_task_group() as clients:
                while True:
                    try:
                        client, _ = await loop.sock_accept(self._listener)
                    except OSError:  # such as no free descriptor
                        await anyio.sleep(_PAUSE_S)
                        continue
                    if self._clients < _CLIENTS and _may_ask(client):
                        clients.start_soon(self._serve_client, client)
                    else:
                        client.close()
        finally:
            self._listener.close()
            with suppress(OSError):
                if self._path.stat().st_ino == self._file:
                    self._path.unlink()

    async def _serve_client(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._clients += 1
        try:
            # TimeoutError is an OSError: a client that is slow or gone gets no answer.
            with client, suppress(OSError):
                line = b""
                with anyio.fail_after(_TALK_S):
                    while not line.endswith(b"\n") and len(line) <= _REQUEST_BYTES:
                        part = await loop.sock_recv(client, _REQUEST_BYTES)
                        if not part:
                            return
                        line += part
                answer = await self._answer(line)
                with anyio.fail_after(_TALK_S):
                    await loop.sock_sendall(client, answer)
        finally:
            self._clients -= 1

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line[: _REQUEST_BYTES + 1])
            command = self._commands[request["command"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            problem = f"expected a JSON object with one of the commands {', '.join(self._commands)}"
            return _line({"problems": [problem], "exit_code": ExitCode.USAGE})
        try:
            return _line(await command(request))
        except ConsumerError as error:
            return _line({"problems": list(error.problems), "exit_code": error.exit_code})
        except Exception:  # a bug must reach the one who asks, and stop nothing else
            log.exception("a control answer failed", command=request["command"])
            return _line({"problems": ["internal error; see the daemon's log"], "exit_code": ExitCode.FAILURE})


def ask(path: Path, request: Mapping[str, Any], timeout_s: float | None = 10.0) -> dict[str, Any]:
    """Ask the daemon that listens there.

    Raises:
        NoDaemonError: None does.
        ConsumerError: It does not answer in time, or answers with problems.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoDaemonError(f"no daemon runs: none listens on {path}") from None
        except OSError as error:
            raise ConsumerError(f"the daemon can't be asked on {path}: {error.strerror or error}") from None
        try:
            client.sendall(json_text(dict(request)).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline(_ANSWER_BYTES))
        except (OSError, ValueError) as error:
            why = "it does not answer in time" if isinstance(error, TimeoutError) else "it ended without an answer"
            raise ConsumerError(f"the daemon was asked on {path}: {why}") from None
    found: dict[str, Any] = answer
    if "exit_code" in found:
        raise _KINDS.get(found["exit_code"], ConsumerError)(*found["problems"])
    return found


def _line(answer: Mapping[str, Any]) -> bytes:
    """An answer as it is sent, masked."""
    return json_text(SECRETS.redact(None, "", dict(answer))).encode() + b"\n"


def _may_ask(client: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user in {0, os.geteuid()}


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SettingsError(f"control_socket: {path} is too long for a socket: expected at most {_LONGEST_PATH} bytes")
    folder = path.parent
    listener = socket.socket(socket.AF_UNIX)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(folder, opened)
            _remove_stale(path)
            listener.settimeout(0)
            listener.bind(str(path))
            # Before anyone can connect.
            path.chmod(0o600)
            listener.listen(_CLIENTS)
        finally:
            os.close(opened)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            raise SettingsError(f"control_socket: {path} can't be made: {error.strerror}") from error
        raise
    return listener


def _lock(folder: Path, opened: int) -> None:
    """Keep other daemons from removing and making sockets there, until the folder is closed."""
    about = os.fstat(opened)
    if about.st_uid not in {0, os.geteuid()} or stat.S_IMODE(about.st_mode) & 0o022:
        raise SettingsError(f"control_socket: expected a folder that only the daemon's user may write to: {folder}")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SocketTakenError(f"another daemon makes its socket in {folder}") from None


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is dead."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"control_socket: {path} is there already and is no socket; remove it, or name another")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            # Such as too many that wait for its answer: it lives.
            pass
    raise SocketTakenError(f"another daemon listens on {path}")
