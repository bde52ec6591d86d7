"""A real PgBouncer in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from consumer.store_address import PostgresAddress, parse_store_address
from tests.missing import missing
from tests.postgres import ADDRESS, store_at
from tests.store.postgres_rig import psql

_PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_START_S: Final = 10.0
SIZE: Final = 2
"""How many server sessions the clients share."""
_SETTINGS: Final = """SELECT name, setting || ' by ' || source AS setting FROM pg_settings
WHERE name NOT IN ('application_name', 'client_encoding')"""
"""Without the two that the pooler itself sets for each client."""


class Pooler:
    """One PgBouncer process.

    Args:
        mode: ``transaction``, ``session`` or ``statement``.
        folder: Where its configuration is; the user that it runs as can read it.
    """

    def __init__(self, mode: str, folder: Path) -> None:
        to = parse_store_address(ADDRESS)
        assert isinstance(to, PostgresAddress)
        ((host, port),) = to.hosts or (("127.0.0.1", to.port),)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        login = f"user={to.user}{f' password={to.password}' if to.password else ''}"
        self.address = f"postgresql://{to.user}@127.0.0.1:{self.port}/{to.database}"
        self._file = folder / "pgbouncer.ini"
        self._file.write_text(
            f"[databases]\n* = host={host} port={port} {login}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {SIZE}\n",
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def store(self, schema: str) -> str:
        """The address of a store in a schema, through the pooler."""
        return store_at(self.address, schema)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert _PROGRAM is not None
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        argv = [_PROGRAM, "--quiet", str(self._file)]
        self._process = subprocess.Popen(
            argv, user=user, extra_groups=[] if user else None, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_S
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "pgbouncer ended at once"
            assert time.monotonic() < deadline, "pgbouncer doesn't listen"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once: all its connections are lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None


@contextmanager
def pooler(mode: str = "transaction") -> Iterator[Pooler]:
    """A running PgBouncer; skips, or fails in CI, where it isn't installed."""
    if _PROGRAM is None:
        missing("pgbouncer is not installed (apt: pgbouncer)")
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running = Pooler(mode, folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()


async def left_in_sessions(running: Pooler) -> list[tuple[dict[str, str], int, int]]:
    """For each session of the pooler: settings unlike a new one's, prepared statements, advisory locks."""
    async with psql(ADDRESS) as fresh:
        default = {row["name"]: row["setting"] for row in await fresh.fetch(_SETTINGS)}
    found = {}
    async with AsyncExitStack() as stack:
        # While a transaction is open its session is no other client's.
        for _ in range(SIZE):
            client = await stack.enter_async_context(psql(running.address, statement_cache_size=0))
            await client.execute("BEGIN")
            found[await client.fetchval("SELECT pg_backend_pid()")] = (
                {
                    row["name"]: row["setting"]
                    for row in await client.fetch(_SETTINGS)
                    if row["setting"] != default.get(row["name"])
                },
                await client.fetchval("SELECT count(*) FROM pg_prepared_statements"),
                await client.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                ),
            )
    assert len(found) == SIZE
    return list(found.values())
