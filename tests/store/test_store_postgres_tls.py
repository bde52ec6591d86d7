"""TLS with PostgreSQL: a server of the tests' own, with a certificate for one name."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import ExitCode, SettingsError, StoreError
from consumer.store.postgres.connection import tls_of
from tests.certificates import make_certificate
from tests.postgres import ADDRESS
from tests.store.postgres_rig import at
from tests.store.postgres_server import run_server, server_folder, server_user
from tests.stores import ledger_at, operators_at

HOST = "db.example"
Cli = Callable[..., Any]


@dataclass(frozen=True)
class Server:
    """A server that speaks TLS.

    Args:
        port: Where, on loopback.
        ca: The certificate to trust, for ``db.example``.
        other: A certificate of another CA, for the same name.
    """

    port: int
    ca: Path
    other: Path

    def address(self, host: str = HOST, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:hush-hush@{host}:{self.port}/postgres?{query}".rstrip("?")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server in a folder of its own, with TLS."""
    with server_folder() as folder:
        (folder / "other").mkdir()
        ca, other = make_certificate(folder, HOST), make_certificate(folder / "other", HOST)
        key = folder / "server.pem"
        shutil.copy(ca, key)
        key.chmod(0o600)
        if (user := server_user()) is not None:
            for path in (key, ca):
                shutil.chown(path, user)
        with run_server(folder, ssl="on", ssl_cert_file=key, ssl_key_file=key) as port:
            yield Server(port, ca, other)


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server's name is this machine; nothing is found in a home folder."""
    resolve = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host in {HOST, "wrong.example"} else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


async def opened(target: str) -> bool:
    """Open a store there; whether the connection is encrypted."""
    ledger = ledger_at(target)
    try:
        await ledger.open()
        link = ledger._ends  # type: ignore[attr-defined]  # PostgreSQL's
        return bool(await link.run(lambda c: c.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))
    finally:
        await ledger.close()


async def test_the_right_certificate(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host that is not local is verified in full by default, by the CA that is written or found where libpq looks."""
    assert await opened(server.address(sslrootcert=server.ca))
    assert await opened(server.address(sslmode="verify-full", sslrootcert=server.ca))
    monkeypatch.setenv("PGSSLROOTCERT", str(server.ca))
    assert await opened(server.address())
    monkeypatch.delenv("PGSSLROOTCERT")
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
    assert await opened(server.address())
    assert await opened(server.address(sslrootcert="system"))
    monkeypatch.delenv("SSL_CERT_FILE")
    (tmp_path / ".postgresql").mkdir()
    shutil.copy(server.ca, tmp_path / ".postgresql" / "root.crt")
    assert await opened(server.address())


@pytest.mark.parametrize("mode", [None, "disable"], ids=["no variable", "PGSSLMODE=disable"])
async def test_a_certificate_that_proves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """An unknown CA, another CA and another name are refused in one line with what to do, also against PGSSLMODE."""
    if mode is not None:
        monkeypatch.setenv("PGSSLMODE", mode)
    for target in (
        server.address(),
        server.address(sslrootcert=server.other),
        server.address("wrong.example", sslrootcert=server.ca),
        server.address("127.0.0.1", sslrootcert=server.ca),
        server.address(sslmode="verify-ca", sslrootcert=server.other),
    ):
        with pytest.raises(StoreError, match="its certificate does not prove that it is this host") as caught:
            await opened(target)
        assert "sslrootcert=FILE" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hush" not in str(caught.value)


async def test_a_file_that_goes_away_while_the_daemon_runs(server: Server, tmp_path: Path) -> None:
    """A connection that is lost while the CA's file is gone is an outage of the store, over once the file is back."""
    ca = tmp_path / "ca.pem"
    shutil.copy(server.ca, ca)
    ledger = ledger_at(server.address(sslrootcert=ca))
    await ledger.open()
    await ledger.claim("k", 60)
    ca.unlink()
    with pytest.raises(StoreError, match=r"sslrootcert .*ca.pem can't be used: No such file"):
        await ledger.ping()
    shutil.copy(server.ca, ca)
    await ledger.ping()
    await ledger.release("k")
    await ledger.close()


async def test_weaker_modes_when_they_are_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weaker mode does what libpq says; a local host keeps the driver's own default."""
    assert await opened(server.address("wrong.example", sslmode="verify-ca", sslrootcert=server.ca))
    assert await opened(server.address(sslmode="require"))
    assert await opened(server.address(sslmode="prefer"))
    assert not await opened(server.address(sslmode="disable"))
    assert await opened(server.address("127.0.0.1"))
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert not await opened(server.address("127.0.0.1"))


async def test_a_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that speaks no TLS is not spoken to without; the line says which two ways there are."""
    address = at(ADDRESS)
    plain = f"postgresql://u:hush-hush@{HOST}:{address.hosts[0][1]}/test"
    with pytest.raises(StoreError, match="it takes no connection with TLS; turn TLS on there, or write a weaker"):
        await opened(plain)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("sslrootcert=none.pem", "sslrootcert none.pem can't be used: No such file or directory"),
        ("sslrootcert=empty.pem", "sslrootcert empty.pem can't be used: it holds no such certificate"),
        ("sslcrl=none.pem", "sslcrl none.pem can't be used"),
        ("sslmode=require&sslcert=none.pem", "sslcert none.pem can't be used"),
        ("sslmode=verify-ca", "sslmode=verify-ca needs sslrootcert=FILE"),
        ("sslmode=verify-ca&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
    ],
)
def test_files_that_are_none(options: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate file that can't be used is a wrong setting, found when the store is made: exit code 78."""
    monkeypatch.chdir(tmp_path)
    Path("empty.pem").write_text("", encoding="ascii")
    for make in (ledger_at, operators_at):
        with pytest.raises(SettingsError, match=problem) as caught:
            make(f"postgresql://u:hush-hush@h/d?{options}")
        assert caught.value.exit_code is ExitCode.SETTINGS
        assert "hush" not in str(caught.value)


def test_which_tls_settings_the_driver_gets(tmp_path: Path) -> None:
    """Local hosts leave it to the driver; off loopback names and certificates are checked, from TLS 1.2 on."""
    assert tls_of(at("postgresql://u@localhost/d")) is None
    assert tls_of(at("postgresql://u@h/d?sslmode=allow")) == "allow"
    context = tls_of(at("postgresql://u@h/d?ssl_max_protocol_version=TLSv1.2"))
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    pem = make_certificate(tmp_path)
    assert isinstance(tls_of(at(f"postgresql://u@h/d?sslcert={pem}&sslkey={pem}")), ssl.SSLContext)
