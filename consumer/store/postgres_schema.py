"""PostgreSQL's tables, and how they come to be and grow.

    mns_consumer_job      one row a key, from its first claim to its end and on: the row's own lock decides
                          who has it, so no claim can slip between a look and a write
    mns_consumer_letter   what was set aside

The key is found by a 128-bit hash of it, which keeps the index a third of its size.

Elsewhere: the statements (``store.postgres_statements``).
"""

from __future__ import annotations

import hashlib
from typing import Final

import asyncpg

from consumer.errors import StoreSchemaError

_RECORD: Final = """queue text, kind text, function text, message_id text, job_id text, state text, code text,
  message text, user_data text, result text, attempts bigint, enqueued_at double precision,
  started_at double precision, ended_at double precision"""

_V1: Final = f"""
CREATE TABLE mns_consumer_job (
  key_id bytea PRIMARY KEY, key text NOT NULL, holder text, held_until timestamptz, claimed_at timestamptz NOT NULL,
  started boolean NOT NULL DEFAULT false, starts integer NOT NULL DEFAULT 0, failures integer NOT NULL DEFAULT 0,
  error text, dead boolean, stored_at timestamptz, {_RECORD});
COMMENT ON COLUMN mns_consumer_job.dead IS 'null while the key is open';
CREATE INDEX mns_consumer_job_ended ON mns_consumer_job (stored_at) WHERE dead IS NOT NULL;
CREATE INDEX mns_consumer_job_open ON mns_consumer_job (claimed_at) WHERE dead IS NULL;
CREATE TABLE mns_consumer_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, replay text NOT NULL DEFAULT 'set_aside', replayed_at timestamptz,
  stored_at timestamptz NOT NULL, reason text NOT NULL, error text NOT NULL, traceback text, body bytea NOT NULL,
  dequeue_count bigint NOT NULL, first_dequeued_at double precision NOT NULL, key text NOT NULL, {_RECORD});
CREATE INDEX mns_consumer_letter_replayed ON mns_consumer_letter (replayed_at) WHERE replay = 'replayed';
CREATE INDEX mns_consumer_letter_stored ON mns_consumer_letter (stored_at);
"""

_V2: Final = """
ALTER TABLE mns_consumer_letter ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
UPDATE mns_consumer_letter SET bytes = octet_length(body) + octet_length(error) + coalesce(octet_length(traceback), 0)
  + coalesce(octet_length(message), 0) + coalesce(octet_length(user_data), 0) + coalesce(octet_length(result), 0);
CREATE INDEX mns_consumer_letter_held ON mns_consumer_letter (replay, bytes);
"""

_V3: Final = """
DROP INDEX mns_consumer_letter_held;
CREATE INDEX mns_consumer_letter_waiting ON mns_consumer_letter (queue, reason, stored_at, bytes)
  WHERE replay <> 'replayed';
"""

MIGRATIONS: Final = (_V1, _V2, _V3)
"""Statements that lead from each schema version to the next; what was released is never changed."""

MIGRATION_SETTINGS: Final = {"lock_timeout": "0", "statement_timeout": "0"}
"""Another daemon may be changing the schema just now, and large tables take their time."""
_MIGRATION_TIMEOUT_S: Final = 3600.0
_LOCK: Final = 0x6D6E735F636F6E73
"""The advisory lock under which one daemon at a time changes the schema: "mns_cons" in ASCII."""


def key_id(key: str) -> bytes:
    """A key's hash as the database holds it, 16 bytes."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


async def is_current(connection: asyncpg.Connection, address: str) -> bool:
    """Whether the schema needs no change; nothing is changed, and no right to change it needed.

    Args:
        connection: Where.
        address: How errors name the database.

    Raises:
        StoreSchemaError: A newer version of this program made it, or the database can't hold all text.
    """
    await _demand_unicode(connection, address)
    return await _version(connection, address) == len(MIGRATIONS)


async def migrate(connection: asyncpg.Connection, address: str) -> None:
    """Bring the schema up to date, in a transaction that has ``MIGRATION_SETTINGS``.

    Raises:
        StoreSchemaError: A newer version of this program made it meanwhile.
    """
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", timeout=_MIGRATION_TIMEOUT_S)
    # Several daemons may start at once. Looking for the table again is not enough: that a table is missing
    # is remembered within a transaction, also when another session has made it meanwhile; making it isn't.
    await connection.execute("CREATE TABLE IF NOT EXISTS mns_consumer_schema (version integer NOT NULL)")
    await connection.execute(
        "INSERT INTO mns_consumer_schema (version) SELECT 0 WHERE NOT EXISTS (SELECT FROM mns_consumer_schema)"
    )
    found = await _known_version(connection, address)
    for number, script in enumerate(MIGRATIONS[found:], start=found + 1):
        await connection.execute(script, timeout=_MIGRATION_TIMEOUT_S)
        await connection.execute("UPDATE mns_consumer_schema SET version = $1", number)


async def check(connection: asyncpg.Connection, address: str) -> None:
    """See that the schema is the one this program knows, and change nothing.

    Raises:
        StoreSchemaError: It is not, or there is none yet.
    """
    found = await _version(connection, address)
    if found < len(MIGRATIONS):
        raise StoreSchemaError(
            f"store {address} has schema version {found}, expected {len(MIGRATIONS)};"
            " run this version's daemon once: it brings the schema up to date"
        )


async def _demand_unicode(connection: asyncpg.Connection, address: str) -> None:
    # Anything else refuses some job's text when it comes, or keeps bytes that nobody can read back (SQL_ASCII).
    found = await connection.fetchval("SELECT current_setting('server_encoding')")
    if found != "UTF8":
        raise StoreSchemaError(
            f"store {address} has the encoding {found}, expected UTF8;"
            " name a database that was made by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )


async def _version(connection: asyncpg.Connection, address: str) -> int:
    if await connection.fetchval("SELECT to_regclass('mns_consumer_schema')") is None:
        return 0
    return await _known_version(connection, address)


async def _known_version(connection: asyncpg.Connection, address: str) -> int:
    found = int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM mns_consumer_schema"))
    if found > len(MIGRATIONS):
        raise StoreSchemaError(
            f"store {address} has schema version {found}, this program knows {len(MIGRATIONS)};"
            " run the newer mns-consumer that made it, or name another database"
        )
    return found
