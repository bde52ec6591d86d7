"""One connection to PostgreSQL, replaced when it is lost: its TLS, its settings, its errors in plain words.

TLS:

    no mode written, host on loopback or a socket    the driver's default: PGSSLMODE, else TLS where the server has it
    no mode written, any other host                  verify-full; PGSSLMODE does not weaken it
    sslmode=MODE                                     that mode

CAs come from ``sslrootcert``, ``PGSSLROOTCERT`` or ``~/.postgresql/root.crt``; without them, or with
``sslrootcert=system``, ``verify-full`` takes the system's.

Settings: a direct connection gets them once, for its session, and keeps prepared statements. Behind a pooler in
transaction mode (such as PgBouncer) each transaction may run in another session, and other programs use the same
sessions. There each unit of work is one transaction that starts by setting what it needs for itself alone, and no
statement stays prepared.

A statement on a connection that turns out to be dead is repeated once on a new one: every statement of this program may
be repeated, and a connection may have died of idleness.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import asyncpg

from consumer.errors import SettingsError, StoreError, StorePoolerError, UsageError
from consumer.store_address import WEAK, PostgresAddress, SslMode

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 10.0  # after this the server cancels a statement
ANSWER_TIMEOUT_S: Final = 12.0
"""After this a silent server counts as gone: later, so that no statement is left running."""
LOCK_TIMEOUT_S: Final = 2.0
"""How long a daemon's statement waits for another session's lock: its whole batch waits with it."""
IDLE_TIMEOUT_S: Final = 10.0
"""After this the server ends an idle transaction: a stopped process must keep no locks."""
_CLOSE_TIMEOUT_S: Final = 2.0
_CONNECTS: Final = 3
"""Attempts until a connection is pooled, or direct, as expected: each kind is connected to in its own way."""
_CACHED_STATEMENTS: Final = 100
_MAX_ERROR_CHARACTERS: Final = 300
_SYSTEM: Final = "system"
_TLS_FILES: Final = {
    "sslrootcert": "root.crt",
    "sslcrl": "root.crl",
    "sslcert": "postgresql.crt",
    "sslkey": "postgresql.key",
}
"""Their names in ``~/.postgresql``."""

PLANS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Always use an index: a plan made while the tables were empty stays when they are large."""

_AT_START: Final = frozenset({"application_name", "options"})
"""Sent when connecting: poolers know the first, and the second can't be set later."""

_ARRAY_TYPES: Final = ("bigint", "boolean", "bytea", "float8", "text")
"""The types of which statements take arrays."""

_POOLER_REFUSALS: Final[Mapping[str, str]] = {
    "statement pooling mode": (
        "the pooler before it pools statements, and this program needs transactions;"
        " set pool_mode = transaction (or session) for this database in the pooler, or name the server itself"
    ),
    "unsupported startup parameter: options": (
        "the pooler before it takes no options; write each setting by its name, as in ?search_path=NAME"
    ),
}
"""What to do, by a part of a pooler's error: nothing works before."""

_NO_TLS: Final = "it takes no connection with TLS; turn TLS on there, or write a weaker sslmode=MODE into the address"
_NOT_TRUSTED: Final = (
    "its certificate does not prove that it is this host; name its CA by sslrootcert=FILE, write the host as the"
    " certificate does, or write a weaker sslmode=MODE"
)
_NOT_UNDERSTOOD: Final = (
    "it answers what the driver does not understand; see that it is PostgreSQL, and what stands between (a proxy, a"
    " pooler)"
)
_INTERFACE: Final = (
    ("authentication method", "it asks for a login that the driver does not know; see its pg_hba.conf"),
    ("closed", "the connection was lost; see that it runs"),
    ("another operation is in progress", "two statements met on one connection: a fault of this program, report it"),
)
"""The meaning of an ``InterfaceError`` by a part of its text: the driver has one class for all of them."""
_MISUSED: Final = "the driver refused how it was called: a fault of this program or of the driver's version, report it"
_MEANINGS: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...]] = (
    (asyncpg.InvalidPasswordError, "the user or the password is refused; see the store's setting"),
    (asyncpg.InvalidAuthorizationSpecificationError, "the user is refused; see the store's setting and pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError, "there is no such database; create it"),
    (asyncpg.InvalidSchemaNameError, "there is no such schema; create it, or see search_path"),
    (asyncpg.InsufficientPrivilegeError, "the user lacks a right; grant it"),
    (asyncpg.DiskFullError, "its disk is full; free some space"),
    (asyncpg.ReadOnlySQLTransactionError, "it takes no writes just now; name the primary, not a standby"),
    (asyncpg.TooManyConnectionsError, "it has no connection left; raise max_connections or run fewer daemons"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping"),
    (
        asyncpg.LockNotAvailableError,
        "another session keeps a row or a table locked; find it in pg_stat_activity, end it",
    ),
    (asyncpg.DataError, "it takes no such value"),
    (asyncpg.QueryCanceledError, f"a statement took longer than {STATEMENT_TIMEOUT_S:g} s; see its load and its locks"),
    (TimeoutError, f"no answer within {ANSWER_TIMEOUT_S:g} s; see that it runs and the network lets through to it"),
    (asyncpg.PostgresConnectionError, "the connection was lost; see that it runs"),
    (asyncpg.OperatorInterventionError, "it ended the connection; see that it runs"),
    (asyncpg.PostgresError, "it refused the call"),
    (asyncpg.TargetServerAttributeNotMatched, "no host is of the kind that target_session_attrs names; name others"),
    (asyncpg.ClientConfigurationError, "the store's address asks for what the driver can't do; correct it"),
    (asyncpg.OutdatedSchemaCacheError, "its tables were changed meanwhile; the next call sees them anew"),
    (asyncpg.InternalClientError, _NOT_UNDERSTOOD),
    ((asyncpg.UnsupportedServerFeatureError, asyncpg.UnsupportedClientFeatureError), _NOT_UNDERSTOOD),
    (ssl.SSLCertVerificationError, _NOT_TRUSTED),
    (ssl.SSLError, "TLS with it failed; see the versions and certificates of both sides"),
    (OSError, "it can't be reached; see that it runs and listens at this address"),
)

_ABOUT_ONE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.LockNotAvailableError,
    # Deadlocks, and conflicts where the database demands stricter isolation.
    asyncpg.TransactionRollbackError,
    asyncpg.ProgramLimitExceededError,
    # A trigger of the database's owner.
    asyncpg.RaiseError,
    # A damaged page.
    asyncpg.InternalServerError,
)

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

T = TypeVar("T")


def set_for_session(settings: Mapping[str, str], pid: int) -> str:
    """Statements that set everything for the session, if the session is ours alone.

    Commits then wait for the server's disk, also where it is configured not to.

    Args:
        settings: By their names.
        pid: The process id that the server announced when connecting. A pooler announces a number of its own, which
            differs from the session's: then nothing is set.

    Returns:
        Statements for one simple query. The last status is ``SELECT 1``; behind a pooler, ``SELECT 0``.
    """
    ours = f"pg_backend_pid() = {int(pid)}"
    return "; ".join([*(f"{text} {ours}" for text in _conditional(settings, is_local="false")), f"SELECT WHERE {ours}"])


def begin(settings: Mapping[str, str]) -> str:
    """Statements that begin a transaction and set everything, as ``set_for_session``, until it ends."""
    return "; ".join(["BEGIN", *(f"{text} true" for text in _conditional(settings, is_local="true"))])


def _conditional(settings: Mapping[str, str], *, is_local: str) -> list[str]:
    """Statements that set everything; each lacks the end of its condition."""
    calls = [f"set_config({_literal(name)}, {_literal(value)}, {is_local})" for name, value in settings.items()]
    durable = f"set_config('synchronous_commit', 'on', {is_local})"
    return [
        *([f"SELECT {', '.join(calls)} WHERE"] if calls else []),
        f"SELECT {durable} WHERE current_setting('synchronous_commit') = 'off' AND",
    ]


def _literal(text: str) -> str:
    """The text as an SQL literal, whatever ``standard_conforming_strings`` is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class RefusedError(StoreError):
    """The database seems to refuse one value or one row: the other commands of the batch may succeed alone."""


class Link:
    """One connection, used by one task at a time.

    Args:
        address: The database's.
        settings: What holds for everything done on the connection.
    """

    def __init__(self, address: PostgresAddress, settings: Mapping[str, str]) -> None:
        self.address = str(address)
        self._to = address
        self._settings = settings
        self._connection: asyncpg.Connection | None = None
        # Known once there is a connection. The driver may send queries of its own while it connects; until then it must
        # not leave a prepared statement in a session that other programs use.
        attributes = address.driver.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS") or "any"
        self._is_pooled = attributes != "any"
        self._turn = asyncio.Lock()

    async def run(
        self,
        work: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        atomic: bool = False,
        settings: Mapping[str, str] = _NONE,
    ) -> T:
        """Do some work on the connection; it may be repeated.

        Args:
            work: It begins no transaction of its own.
            atomic: All of it is one transaction. Otherwise each statement is one, except behind a pooler.
            settings: Further settings for this work; they make it one transaction.

        Raises:
            RefusedError: The database refused one value or row; nothing was written.
            StorePoolerError: This program can't work through the pooler.
            StoreError: The database can't be reached or refused the call.
        """
        async with self._turn:
            while True:
                fresh = self._connection is None or self._connection.is_closed()
                try:
                    return await self._once(work, atomic=atomic, settings=settings)
                except _FAULTS as error:
                    # A time-out is not repeated: the caller has waited long enough.
                    if fresh or self._connection is not None or isinstance(error, TimeoutError):
                        raise explain(self._to, error) from error

    async def close(self) -> None:
        """Close the connection after the work in progress, in order when the server answers."""
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is None or connection.is_closed():
                return
            try:
                await connection.close(timeout=_CLOSE_TIMEOUT_S)
            except _FAULTS:
                connection.terminate()

    async def _once(
        self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, atomic: bool, settings: Mapping[str, str]
    ) -> T:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = await self._connect()
        try:
            if not (atomic or settings or self._is_pooled):
                return await work(connection)
            common = self._session_settings() if self._is_pooled else {}
            await connection.execute(begin({**common, **settings}))
            result = await work(connection)
            await connection.execute("COMMIT")
        except BaseException as error:
            # After a cancellation or a fault in the middle of an answer the connection's state is unknown. A refusal
            # leaves it usable, but after a failover the primary must be looked for again.
            standby = isinstance(error, asyncpg.ReadOnlySQLTransactionError)
            refused = isinstance(error, asyncpg.PostgresError | UsageError | StoreError) and not standby
            if not refused or connection.is_closed() or not await _rolled_back(connection):
                connection.terminate()
                self._connection = None
            raise
        return result

    async def _connect(self) -> asyncpg.Connection:
        to = self._to
        try:
            # Read each time: the files may have been replaced.
            tls = tls_of(to)
        except SettingsError as error:
            # They could be read when the store was made, and may be back.
            raise StoreError(str(error)) from error
        options: dict[str, Any] = {
            "host": [host for host, _ in to.hosts] or None,
            "port": [port for _, port in to.hosts] or to.port,
            "user": to.user,
            "password": to.password,
            "database": to.database,
            "ssl": tls,
            "direct_tls": to.direct_tls or None,
            "timeout": to.connect_timeout_s or CONNECT_TIMEOUT_S,
            "command_timeout": ANSWER_TIMEOUT_S,
            "server_settings": {"application_name": "mns-consumer", **self._written(_AT_START)},
            **to.driver,
        }
        for _ in range(_CONNECTS):
            cached = 0 if self._is_pooled else _CACHED_STATEMENTS
            connection: asyncpg.Connection = await asyncpg.connect(**options, statement_cache_size=cached)
            try:
                # Not as parameters of the connection: poolers refuse those that they don't know.
                text = set_for_session(self._session_settings(), connection.get_server_pid())
                is_pooled = await connection.execute(text) != "SELECT 1"
                if is_pooled and self._is_pooled:
                    await _learn_types(connection)
            except BaseException:
                connection.terminate()
                raise
            if is_pooled is self._is_pooled:
                self._connection = connection
                return connection
            # The driver decides about prepared statements when it connects.
            connection.terminate()
            self._is_pooled = is_pooled
        raise StoreError(f"store {self.address}: connections lead now to a pooler, now to a server; name one of both")

    def _written(self, names: Collection[str]) -> dict[str, str]:
        return {name: value for name, value in self._to.server_settings.items() if name in names}

    def _session_settings(self) -> dict[str, str]:
        return {
            **self._written(self._to.server_settings.keys() - _AT_START),
            "statement_timeout": str(int(STATEMENT_TIMEOUT_S * 1000)),
            "idle_in_transaction_session_timeout": str(int(IDLE_TIMEOUT_S * 1000)),
            **self._settings,
        }


async def _learn_types(connection: asyncpg.Connection) -> None:
    """Let the driver look up the types of arrays: that sets ``jit`` for the session, which is undone here."""
    await connection.execute("BEGIN")
    arrays = ", ".join(f"${number}::{name}[]" for number, name in enumerate(_ARRAY_TYPES, start=1))
    await connection.fetch(f"SELECT {arrays}", *[[]] * len(_ARRAY_TYPES))  # names of types only
    await connection.execute("ROLLBACK")


async def _rolled_back(connection: asyncpg.Connection) -> bool:
    """Roll back; whether the connection is in no transaction any more."""
    if connection.is_in_transaction():
        try:
            await connection.execute("ROLLBACK")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
    return True


def explain(address: PostgresAddress, error: BaseException) -> StoreError:
    """One line: the address, what failed, what to do. It never holds a password."""
    meaning = next((text for kind, text in _MEANINGS if isinstance(error, kind)), None) or next(
        (text for part, text in _INTERFACE if part in str(error)), _MISUSED
    )
    text = (str(error).splitlines() or [""])[0][:_MAX_ERROR_CHARACTERS]
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in text:
        meaning = _NO_TLS
    for secret in sorted(address.secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    for part, advice in _POOLER_REFUSALS.items():
        if part in str(error):
            return StorePoolerError(f"store {address}: {advice}")
    kind = RefusedError if isinstance(error, _ABOUT_ONE) else StoreError
    return kind(f"store {address}: {meaning} ({type(error).__name__}{': ' if text else ''}{text})")


def tls_of(address: PostgresAddress) -> ssl.SSLContext | str | None:
    """The driver's argument ``ssl``; ``None`` leaves TLS to the driver.

    Not the driver's own from ``require`` on: it knows no CAs of the system, and looks at no file before it connects.

    Raises:
        SettingsError: A file can't be used, or the mode lacks one.
    """
    mode = address.tls_mode
    if mode is None or mode in WEAK:
        return mode
    root, crl, certificate, key = (_file(address, option, name) for option, name in _TLS_FILES.items())
    if root == _SYSTEM and mode is not SslMode.VERIFY_FULL:
        # A public CA certifies everyone, each for a name of their own.
        raise SettingsError(f"store {address}: sslrootcert=system needs sslmode=verify-full")
    if root is None and mode is SslMode.VERIFY_CA:
        raise SettingsError(f"store {address}: sslmode=verify-ca needs sslrootcert=FILE, the certificate of the CA")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode is SslMode.VERIFY_FULL
    least, most = (address.tls.get(f"ssl_{end}_protocol_version", "") for end in ("min", "max"))
    context.minimum_version = ssl.TLSVersion[least.replace(".", "_") or "TLSv1_2"]
    context.maximum_version = ssl.TLSVersion[most.replace(".", "_") or "MAXIMUM_SUPPORTED"]
    context.set_alpn_protocols(["postgresql"])
    if root is None and mode is SslMode.REQUIRE:
        # Encrypted, and the server is not verified.
        context.verify_mode = ssl.CERT_NONE
    elif root is None or root == _SYSTEM:
        context.load_default_certs()
    else:
        _load(address, "sslrootcert", root, context.load_verify_locations)
    if crl:
        _load(address, "sslcrl", crl, context.load_verify_locations)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate:
        # The password is a text, not None: that would ask on the terminal.
        load = partial(context.load_cert_chain, keyfile=key, password=address.sslpassword or "")
        _load(address, "sslcert", certificate, load)
    return context


def _file(address: PostgresAddress, option: str, name: str) -> str | None:
    """A file from the address, the environment, or where libpq looks."""
    if given := address.tls.get(option) or os.environ.get(f"PG{option.upper()}"):
        return given
    try:
        usual = Path.home() / ".postgresql" / name
        return str(usual) if usual.exists() else None
    except (RuntimeError, OSError):
        return None


def _load(address: PostgresAddress, option: str, path: str, load: Callable[[str], None]) -> None:
    try:
        load(path)
    except (OSError, ValueError) as error:
        # OpenSSL's errors are OSErrors whose text names a line of its own source.
        why = "it holds no such certificate or key" if isinstance(error, ssl.SSLError) else None
        why = why or getattr(error, "strerror", None) or str(error)
        text = f"store {address}: {option} {path} can't be used: {why}; expected a PEM file"
        raise SettingsError(text) from None
