"""Where the store is: an SQLite file, or a PostgreSQL server. Neither ``str`` nor ``repr`` shows a password.

Elsewhere: reading one from its text (``store_url``), connecting (``store``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, TypeAlias
from urllib.parse import quote


class SslMode(StrEnum):
    """libpq's ``sslmode``, from none to all checks."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


WEAK: Final = frozenset({SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER})
"""Modes that go on without TLS."""


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """A file.

    Args:
        path: Relative or absolute; ``~`` is expanded.
    """

    path: Path
    is_shared: ClassVar[bool] = False
    secrets: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A database. Neither ``str`` nor ``repr`` shows a password.

    Args:
        hosts: Names, IP addresses or socket folders with their ports, tried in turn; empty leaves it to the driver,
            which looks for a local socket and then at localhost.
        port: The port where there is no host.
        database: Its name.
        user: The role to connect as.
        password: ``None`` leaves it to ``PGPASSWORD`` and to the password file.
        sslmode: As written; see ``tls_mode`` for the one that holds.
        tls: ``sslrootcert``, ``sslcert``, ``sslkey``, ``sslcrl`` and the least and greatest version, as written.
        sslpassword: The key file's password.
        direct_tls: Begin with TLS at once (``sslnegotiation=direct``).
        connect_timeout_s: Seconds for one attempt; ``None`` leaves it to the program.
        driver: Other options of the driver.
        server_settings: What the server is told for the session, such as ``search_path``.
        secrets: Every spelling of a password in the text, so that it can be masked.
    """

    hosts: tuple[tuple[str, int], ...]
    port: int
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    sslmode: SslMode | None = None
    tls: Mapping[str, str] = field(default_factory=dict)
    sslpassword: str | None = field(default=None, repr=False)
    direct_tls: bool = False
    connect_timeout_s: int | None = None
    driver: Mapping[str, str] = field(default_factory=dict)
    server_settings: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    is_shared: ClassVar[bool] = True

    @property
    def is_local(self) -> bool:
        """Whether every host is a loopback address, localhost or a socket folder."""
        return all(_is_local(host) for host, _ in self.hosts)

    @property
    def tls_mode(self) -> SslMode | None:
        """The mode that holds: the one written, else ``verify-full``; ``None``, the driver's, for local hosts."""
        if self.sslmode is not None:
            return self.sslmode
        return None if self.is_local and not self.tls else SslMode.VERIFY_FULL

    def __str__(self) -> str:
        sockets = [host for host, _ in self.hosts if host.startswith("/")]
        shown = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts)
        database = quote(self.database, safe="")
        if sockets:
            return f"postgresql:///{database}?host={','.join(host for host, _ in self.hosts)}"
        return f"postgresql://{shown}/{database}"


StoreAddress: TypeAlias = SqliteAddress | PostgresAddress


def _is_local(host: str) -> bool:
    if host.startswith("/"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
