"""Keep one connection to PostgreSQL, make it anew when it is lost, and say in plain words what is wrong.

Direct connections keep their settings and prepared statements. Behind a pooler each unit of work is a transaction
with settings of its own (``store.postgres_session``).

A statement on a connection that turns out to be dead is said once more on a new one: every statement of this
program may be said twice, and a connection may have died of nothing but idleness.

Elsewhere: which statements (``store.postgres``), the schema (``store.postgres_schema``).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import asyncpg

from consumer.errors import SettingsError, StoreError, StorePoolerError, UsageError
from consumer.store.postgres_session import AT_START, SessionSettings, pooler_refusal
from consumer.store.postgres_statements import TYPES
from consumer.store.postgres_tls import tls_of
from consumer.store_address import PostgresAddress

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 10.0
"""After which the server itself gives a statement up."""
ANSWER_TIMEOUT_S: Final = 12.0
"""After which a server that says nothing at all is given up: later, so that it leaves no statement running."""
LOCK_TIMEOUT_S: Final = 2.0
"""For how long a daemon's statement waits for a lock that somebody else keeps: its neighbours wait with it."""
IDLE_TIMEOUT_S: Final = 10.0
"""After which the server ends a transaction whose program says nothing: a stopped process must keep no locks."""
_CLOSE_TIMEOUT_S: Final = 2.0
_CONNECTS: Final = 3
"""How often to connect until the connection is of the expected kind: each kind is connected to in its own way."""
_CACHED_STATEMENTS: Final = 100
_MAX_TOLD: Final = 300

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
"""What an ``InterfaceError`` means, by a part of its text: the driver has one class for all of them."""
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
    # A trigger of somebody's own that refuses a row.
    asyncpg.RaiseError,
    # A damaged page.
    asyncpg.InternalServerError,
)

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

T = TypeVar("T")


_FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class RefusedError(StoreError):
    """The database refused one value or one row, as it seems: what was asked together with it may go through alone."""


class Link:
    """One connection, used by one task at a time.

    Args:
        address: The database's.
        settings: What holds for everything done on the connection.
        durable: Whether commits wait for the server's disk, even if the database is configured otherwise.
    """

    def __init__(self, address: PostgresAddress, settings: Mapping[str, str], *, durable: bool = False) -> None:
        self.address = str(address)
        self._to = address
        self._settings = settings
        self._durable = durable
        self._connection: asyncpg.Connection | None = None
        # Known when there is a connection. The driver may ask something itself while it connects; until it is known
        # better, it must not leave a prepared statement in a session that others use.
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
        """Do some work on the connection; it may be done twice.

        Args:
            work: What to do. It begins no transaction of its own.
            atomic: All of it is one transaction. Otherwise each statement is one, except behind a pooler.
            settings: What else is set for this work; makes it one transaction.

        Raises:
            RefusedError: It refused something about one value or row; nothing was written.
            StorePoolerError: There is a pooler that this program can't work through.
            StoreError: The database can't be reached or refused the call.
        """
        async with self._turn:
            fresh = self._connection is None or self._connection.is_closed()
            try:
                return await self._once(work, atomic=atomic, settings=settings)
            except _FAULTS as error:
                if fresh or not self._lost(error):
                    raise explain(self._to, error) from error
            try:
                return await self._once(work, atomic=atomic, settings=settings)
            except _FAULTS as error:
                raise explain(self._to, error) from error

    async def close(self) -> None:
        """Let go, politely when the other side answers."""
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
            common = self._session_settings() if self._is_pooled else SessionSettings()
            await connection.execute(common.for_transaction(settings))
            result = await work(connection)
            await connection.execute("COMMIT")
        except BaseException as error:
            # After a cancellation or a fault in the middle of an answer nobody knows what comes next on it. A
            # refusal leaves it whole, but a server that became a standby must be looked for again.
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
            # Read anew each time: the files may have been replaced since.
            tls = tls_of(to)
        except SettingsError as error:
            # They could be read when the store was made, and may be back soon.
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
            "server_settings": {"application_name": "mns-consumer", **self._at_start()},
            **to.driver,
        }
        for _ in range(_CONNECTS):
            cached = 0 if self._is_pooled else _CACHED_STATEMENTS
            connection: asyncpg.Connection = await asyncpg.connect(**options, statement_cache_size=cached)
            try:
                # Not by the connection's parameters: poolers refuse those that they don't know.
                text = self._session_settings().for_session(connection.get_server_pid())
                is_pooled = await connection.execute(text) != "SELECT 1"
                if is_pooled and self._is_pooled:
                    await _learn_types(connection)
            except BaseException:
                connection.terminate()
                raise
            if is_pooled is self._is_pooled:
                self._connection = connection
                return connection
            # The driver prepares statements or doesn't for as long as a connection lives.
            connection.terminate()
            self._is_pooled = is_pooled
        raise StoreError(f"store {self.address}: each connection leads elsewhere, to a pooler or not; name one of both")

    def _at_start(self) -> dict[str, str]:
        return {name: value for name, value in self._to.server_settings.items() if name in AT_START}

    def _session_settings(self) -> SessionSettings:
        values = {
            **{name: value for name, value in self._to.server_settings.items() if name not in AT_START},
            "statement_timeout": str(int(STATEMENT_TIMEOUT_S * 1000)),
            "idle_in_transaction_session_timeout": str(int(IDLE_TIMEOUT_S * 1000)),
            **self._settings,
        }
        return SessionSettings(values, durable=self._durable)

    def _lost(self, error: BaseException) -> bool:
        # A time-out is not tried again: the caller has waited long enough.
        return self._connection is None and not isinstance(error, TimeoutError)


async def _learn_types(connection: asyncpg.Connection) -> None:
    """Let the driver look up the types of arrays: it sets ``jit`` for the session when it does, and that is undone."""
    await connection.execute("BEGIN")
    arrays = ", ".join(f"${number}::{name}[]" for number, name in enumerate(TYPES, start=1))
    await connection.fetch(f"SELECT {arrays}", *[[]] * len(TYPES))  # names of types only
    await connection.execute("ROLLBACK")


async def _rolled_back(connection: asyncpg.Connection) -> bool:
    """Whether the connection is in no transaction any more."""
    if connection.is_in_transaction():
        try:
            await connection.execute("ROLLBACK")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
    return True


def explain(address: PostgresAddress, error: BaseException) -> StoreError:
    """One line: the address, what failed, what to do. A password appears in it under no circumstances."""
    meaning = next((text for kind, text in _MEANINGS if isinstance(error, kind)), None) or next(
        (text for part, text in _INTERFACE if part in str(error)), _MISUSED
    )
    told = (str(error).splitlines() or [""])[0][:_MAX_TOLD]
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in told:
        meaning = _NO_TLS
    for secret in sorted(address.secrets, key=len, reverse=True):
        told = told.replace(secret, "***")
    if refusal := pooler_refusal(str(error)):
        return StorePoolerError(f"store {address}: {refusal}")
    kind = RefusedError if isinstance(error, _ABOUT_ONE) else StoreError
    return kind(f"store {address}: {meaning} ({type(error).__name__}{': ' if told else ''}{told})")
