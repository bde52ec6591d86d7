"""The store's address: its value, and the parser that reads it once from the setting's text.

    PATH, sqlite:///PATH                                         SqliteAddress
    postgresql://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE     PostgresAddress

The second form is libpq's connection URI. The parser refuses what the driver or the server would misread or reject
later. Its errors say what was expected and never repeat the text, because any part of a mistyped address may be the
password.
"""

from __future__ import annotations

import difflib
import getpass
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from consumer.errors import SettingsError
from consumer.notify_url import is_loopback

FORMS: Final = "a path, sqlite:///PATH (three slashes) or postgresql://USER@HOST:PORT/DATABASE"
_ESCAPES: Final = "in a user or password write @ as %40, / as %2F, ? as %3F, # as %23, % as %25 and a space as %20"
_MAX_PORT: Final = 65_535
_MAX_CONNECT_TIMEOUT_S: Final = 600
_TIMEOUT_PROBLEM: Final = f"connect_timeout: expected seconds from 1 to {_MAX_CONNECT_TIMEOUT_S}"
_MAX_HOST_NAME: Final = 253

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SQLITE: Final = "sqlite:///"
# A text that is meant as an address. Taken for a file's name it would be printed in errors.
_NO_PATH: Final = re.compile(
    r"(?:postgres(?:ql)?|sqlite|file|jdbc|[a-z]+\+[a-z0-9]+):|[^/]*:[^/]*@|//[^/]*@|.*\bpassword\s*=", re.IGNORECASE
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.)*[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.?")
_HOST_AND_PORT: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)?")

_TLS: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version")
_DRIVER: Final = ("passfile", "krbsrvname", "gsslib", "target_session_attrs")
_SECRET: Final = ("password", "sslpassword")
_KNOWN: Final = (
    *("host", "port", "user", "dbname", "database", "connect_timeout", "sslmode", "sslnegotiation"),
    *(*_SECRET, *_TLS, *_DRIVER),
)
"""Options of the connection. Any other is a setting of the server's session, such as ``search_path``."""
_SYNONYM: Final = {"dbname": "database", "database": "dbname"}
_UNSUPPORTED: Final = frozenset(
    {
        *("service", "servicefile", "hostaddr", "replication", "requiressl", "ssl", "tls", "sslsni", "sslcompression"),
        *("sslcertmode", "sslcrldir", "sslkeylogfile", "requirepeer", "require_auth", "channel_binding", "gssencmode"),
        *("gssdelegation", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "load_balance_hosts", "fallback_application_name", "client_encoding"),
    }
)
"""Options of libpq and of other drivers that asyncpg lacks. The server would reject them as session settings."""


class SslMode(StrEnum):
    """libpq's ``sslmode``, from no check to all checks."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


WEAK: Final = frozenset({SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER})
"""Modes that connect without TLS if they must."""
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": tuple(SslMode),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "gsslib": ("gssapi", "sspi"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}


class StoreAddressError(SettingsError, ValueError):
    """The text is not a store's address."""


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """A file that one daemon owns."""

    path: Path
    is_shared: ClassVar[bool] = False
    secrets: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A database that several daemons may share. Neither ``str`` nor ``repr`` shows a password."""

    hosts: tuple[tuple[str, int], ...]
    """Tried in turn. Empty: the driver looks for a local socket, then at localhost."""
    port: int
    """The port for an empty ``hosts``."""
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    """``None``: the driver takes ``PGPASSWORD`` or the password file."""
    sslmode: SslMode | None = None
    """As written; ``tls_mode`` is the effective one."""
    tls: Mapping[str, str] = field(default_factory=dict)
    sslpassword: str | None = field(default=None, repr=False)
    direct_tls: bool = False
    connect_timeout_s: int | None = None
    driver: Mapping[str, str] = field(default_factory=dict)
    """Other options of the driver."""
    server_settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the server's session, such as ``search_path``."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Every spelling of a password in the text, for masking."""
    is_shared: ClassVar[bool] = True

    @property
    def is_local(self) -> bool:
        """Whether every host is this machine: a loopback address, localhost or a socket folder."""
        return all(host.startswith("/") or is_loopback(host) for host, _ in self.hosts)

    @property
    def tls_mode(self) -> SslMode | None:
        """The effective mode: as written, else ``verify-full``; for local hosts ``None``, the driver's default."""
        if self.sslmode is not None:
            return self.sslmode
        return None if self.is_local and not self.tls else SslMode.VERIFY_FULL

    def __str__(self) -> str:
        database = quote(self.database, safe="")
        if any(host.startswith("/") for host, _ in self.hosts):
            return f"postgresql:///{database}?host={','.join(host for host, _ in self.hosts)}"
        shown = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts)
        return f"postgresql://{shown}/{database}"


StoreAddress: TypeAlias = SqliteAddress | PostgresAddress


def parse_store_address(text: str) -> StoreAddress:
    """Parse a store's address. Does not look at the files that it names.

    Raises:
        StoreAddressError: The text is not an address.
    """
    text = text.strip()
    if not text:
        raise StoreAddressError(f"expected {FORMS}, got an empty text")
    if _CONTROL.search(text):
        raise StoreAddressError("expected no control character such as a line break or NUL")
    found = _SCHEME.match(text)
    try:
        # A file's name may be bytes that are not text; an address may not.
        os.fsencode(text) if found is None else text.encode()
    except UnicodeEncodeError:
        raise StoreAddressError("expected UTF-8") from None
    if found is None:
        return SqliteAddress(_path(text))
    scheme = found[1].lower()
    if scheme in {"postgresql", "postgres"}:
        return _postgres(text[found.end() :])
    if scheme == "sqlite" and text[: len(_SQLITE)].lower() == _SQLITE and len(text) > len(_SQLITE):
        rest = text[len(_SQLITE) :]
        if "?" in rest or "#" in rest:
            raise StoreAddressError("sqlite:///PATH takes no options; in a path write ? as %3F and # as %23")
        return SqliteAddress(_path(_unescaped(rest)))
    raise StoreAddressError(f"expected {FORMS}, got the scheme {scheme}://")


def _path(text: str) -> Path:
    if _NO_PATH.match(text):
        raise StoreAddressError(f"expected {FORMS}; a file whose name looks like an address is written ./NAME")
    if text.endswith(":memory:"):
        raise StoreAddressError("expected a file, got :memory:, which forgets every job when the daemon ends")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise StoreAddressError("expected a path; the home folder that its ~ stands for is not known") from None


def _postgres(text: str) -> PostgresAddress:
    """Parse what follows ``postgresql://``."""
    if re.search(r"[\s#]", text):
        raise StoreAddressError(f"expected no space and no #; {_ESCAPES}")
    before, _, query = text.partition("?")
    authority, _, path = before.partition("/")
    if authority.count("@") > 1 or "@" in path + query or "/" in path:
        raise StoreAddressError(f"expected postgresql://USER@HOST:PORT/DATABASE with one @ and one name; {_ESCAPES}")
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    written = _options(query)
    if hosts and "port" in written:
        raise StoreAddressError("port stands beside a host that may have its own; write HOST:PORT")
    _add(written, user=user, password=password, host=hosts, dbname=path)
    # A host's escapes may hold a comma, so the list of hosts is split before they are resolved.
    options = {name: raw if name == "host" else _unescaped(raw) for name, raw in written.items()}
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise StoreAddressError(f"{name}: expected one of {', '.join(allowed)}")
    database = options.get("dbname") or options.get("database") or os.environ.get("PGDATABASE")
    if not database:
        raise StoreAddressError("expected a database, as in postgresql://USER@HOST:PORT/DATABASE")
    found, port = _hosts(options)
    timeout = options.get("connect_timeout")
    address = PostgresAddress(
        hosts=found,
        port=port,
        database=database,
        user=options.get("user") or os.environ.get("PGUSER") or _system_user(),
        password=options.get("password"),
        sslmode=SslMode(options["sslmode"]) if "sslmode" in options else None,
        tls={name: options[name] for name in _TLS if name in options},
        sslpassword=options.get("sslpassword"),
        direct_tls=options.get("sslnegotiation") == "direct",
        connect_timeout_s=_number(timeout, _MAX_CONNECT_TIMEOUT_S, _TIMEOUT_PROBLEM) if timeout is not None else None,
        driver={name: options[name] for name in _DRIVER if name in options},
        server_settings={name: value for name, value in options.items() if name not in _KNOWN},
        secrets=tuple({text for name in _SECRET if name in written for text in (written[name], options[name])}),
    )
    if address.tls_mode in {None, *WEAK} and (address.tls or address.direct_tls):
        raise StoreAddressError("sslrootcert and its like need sslmode=require, verify-ca or verify-full")
    return address


def _options(query: str) -> dict[str, str]:
    """The options after the ``?``, by name, with their escapes. As in libpq, a ``+`` is a ``+``."""
    found: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        raw, equals, value = pair.partition("=")
        name = _unescaped(raw)
        if not equals or not value or not _OPTION.fullmatch(name):
            raise StoreAddressError(f"expected options as ?NAME=VALUE&NAME=VALUE; {_ESCAPES}")
        if name in _UNSUPPORTED:
            hint = "; write sslmode=MODE" if name in {"ssl", "tls", "requiressl"} else ""
            raise StoreAddressError(f"the option {name} is not one of this program's driver{hint}")
        # A misspelt sslmode would go to the server as a session setting, and TLS would silently be weaker.
        close = difflib.get_close_matches(name.lower(), _KNOWN, n=1, cutoff=0.85)
        if name not in _KNOWN and close:
            raise StoreAddressError(f"there is no such option; did you mean {close[0]}?")
        _add(found, **{name: value})
    return found


def _add(options: dict[str, str], /, **values: str) -> None:
    """Add the values that are not empty.

    Raises:
        StoreAddressError: The option is there already, perhaps under its other name.
    """
    for name, value in values.items():
        if not value:
            continue
        if name in options or _SYNONYM.get(name) in options:
            raise StoreAddressError(
                f"{name} stands twice; write it once" if name in _KNOWN else "an option stands twice"
            )
        options[name] = value


def _hosts(options: Mapping[str, str]) -> tuple[tuple[tuple[str, int], ...], int]:
    """The hosts with their ports, and the port for no host; what is not written comes from the environment."""
    names = [_unescaped(raw) for raw in options["host"].split(",")] if "host" in options else []
    names = names or [name for name in os.environ.get("PGHOST", "").split(",") if name]
    ports = (options.get("port") or os.environ.get("PGPORT") or "5432").split(",")
    if len(ports) not in {1, len(names)}:
        raise StoreAddressError("port: expected one port, or as many as there are hosts")
    several = ports * len(names) if len(ports) == 1 else ports
    return tuple(_host(name, port) for name, port in zip(names, several, strict=True)), _port(ports[0])


def _host(text: str, port: str) -> tuple[str, int]:
    if text.startswith("/"):
        return text, _port(port)
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None:
        raise StoreAddressError(f"expected HOST:PORT, an IPv6 address in brackets; {_ESCAPES}")
    name, own_port = found[1], found[2]
    if name.startswith("["):
        name = name[1:-1]
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            raise StoreAddressError("expected an IPv6 address between the brackets") from None
    elif len(name) > _MAX_HOST_NAME or not _HOST.fullmatch(name):
        raise StoreAddressError(
            "expected the name of a host in ASCII, an IP address, or a socket's folder (%2Frun%2Fpostgresql)"
        )
    return name, _port(own_port or port)


def _port(text: str) -> int:
    return _number(text, _MAX_PORT, f"expected a port from 1 to {_MAX_PORT}; {_ESCAPES}")


def _number(text: str, most: int, problem: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 0 < int(text) <= most):
        raise StoreAddressError(problem)
    return int(text)


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise StoreAddressError("expected a user, as in postgresql://USER@HOST:PORT/DATABASE") from None


def _unescaped(raw: str) -> str:
    """The text with its percent escapes resolved, strictly."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", raw):
        raise StoreAddressError(f"expected two hexadecimal digits after each %; {_ESCAPES}")
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise StoreAddressError("expected percent escapes that are UTF-8") from None
    if "\x00" in text:
        raise StoreAddressError("expected no NUL (%00)")
    return text
