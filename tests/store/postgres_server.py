"""A PostgreSQL server of a test's own, where the test needs settings that all sessions share."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.postgres import NoPostgresError


def server_user() -> str | None:
    """The user that root runs the server as, since it refuses to run as root; ``None`` for other users."""
    return pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder of the server's user, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mns-consumer-server-"))
    try:
        if (user := server_user()) is not None:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def run_server(folder: Path, port: int | None = None, **settings: object) -> Iterator[int]:
    """A server with its data in a folder, made where there is none; gives its port on loopback. It ends by a crash."""
    programs, user = _binaries(), server_user()
    if not (folder / "data").exists():
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
            env={"LC_ALL": "C"},
        )
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        **settings,
    }
    running = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", *(f"--{name}={value}" for name, value in settings.items())],
        user=user,
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, running, programs)
        yield port
    finally:
        # At once, without writing anything more down.
        running.send_signal(signal.SIGQUIT)
        running.wait(10)


def copy_server(folder: Path, port: int) -> None:
    """Make a folder's data that of a streaming standby of the server at a port; ``run_server`` starts it."""
    options = f"-R -c fast --no-sync -h 127.0.0.1 -p {port} -U postgres -D data"
    argv = [str(_binaries() / "pg_basebackup"), *options.split()]
    subprocess.run(argv, user=server_user(), cwd=folder, check=True, capture_output=True)


async def cut_off(standby: str) -> None:
    """Let a standby receive nothing more of its primary; ``standby`` is its address."""
    connection = await asyncpg.connect(standby)
    try:
        await connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval("SELECT count(*) FROM pg_stat_wal_receiver"):  # noqa: ASYNC110 - the server does it
            await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def promote(standby: str) -> None:
    """Make a standby a primary; ``standby`` is its address."""
    connection = await asyncpg.connect(standby)
    try:
        assert await connection.fetchval("SELECT pg_promote()")
    finally:
        await connection.close()


def _binaries() -> Path:
    """Where initdb and postgres are."""
    named = [Path(found).parent for found in [shutil.which("postgres")] if found]
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *named]
    found = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    if not found:
        NoPostgresError("PostgreSQL's initdb is not installed").demand()
    return found[0]


def _wait_for(port: int, running: subprocess.Popen[bytes], programs: Path) -> None:
    """Wait until it takes connections: after a crash it listens before it has recovered."""
    argv = [str(programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
    for _ in range(200):
        assert running.poll() is None
        if subprocess.run(argv, check=False).returncode == 0:
            return
        time.sleep(0.05)
    pytest.fail("the server takes no connections")
