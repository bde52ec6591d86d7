"""Secrets that a handler's error repeats are masked before they are stored; bodies are stored byte for byte."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping

import asyncpg
import pytest

from consumer.ops import sanitize
from consumer.plugin.handler import Job, Reject
from consumer.sandbox import Sandbox
from consumer.store.ledger import Filter
from consumer.store.open import make_operators
from tests.engine.rig import QUEUE, Serve, body, handlers

SECRET = "swordfish+hunter/2"


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """A secret of the process, forgotten afterwards."""
    kept = vars(sanitize.SECRETS).copy()
    vars(sanitize.SECRETS).update(vars(sanitize.Secrets()))
    sanitize.SECRETS.protect(SECRET)
    yield
    vars(sanitize.SECRETS).update(kept)


async def test_no_secret_is_stored(sandbox: Sandbox, serve: Serve, store: Mapping[str, str]) -> None:
    """Errors, tracebacks and failures on both engines hold the mask; the body of the same letter is untouched."""

    async def cover(job: Job) -> None:
        url = f"https://films.example/?key={SECRET}"
        if job.user_data == "fails":
            raise ConnectionError(f"no answer from {url}")
        raise Reject(f"refused by {url}") from ValueError(SECRET)

    sent = body("1" * 32, UserData=f"key={SECRET}")
    sandbox.put(QUEUE, sent.decode())
    sandbox.put(QUEUE, body("2" * 32, UserData="fails").decode())
    async with serve(handlers(Cover=cover), retry_base_s=300, retry_cap_s=300, **store) as daemon:
        labels = {"queue": QUEUE, "function": "Cover"}
        await daemon.until(lambda: daemon.count("dead_letters_total", **labels, reason="rejected") == 1)
        await daemon.until(lambda: daemon.count("retries_total", **labels, cause="failed") == 1)
        operators = make_operators(daemon.app.settings.store_address())
        (stored,) = await operators.list_letters(Filter(), limit=9)
        await operators.close()
        failures = await failures_in(store.get("store"), str(daemon.store))
    assert stored.letter.body == sent
    assert "refused by https://films.example/?key=***" in stored.letter.error
    assert "***" in str(stored.letter.traceback)
    assert failures == ["ConnectionError: no answer from https://films.example/?key=***"]
    assert SECRET not in f"{stored.letter.error}{stored.letter.traceback}"


async def failures_in(address: str | None, path: str) -> list[str]:
    """The errors of keys that have failed and not ended."""
    if address is None:
        return await asyncio.to_thread(read_failures, path)
    connection = await asyncpg.connect(address)
    try:
        rows = await connection.fetch("SELECT error FROM mns_consumer_job WHERE dead IS NULL AND error IS NOT NULL")
        return [row[0] for row in rows]
    finally:
        await connection.close()


def read_failures(path: str) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT error FROM attempt")]
    finally:
        connection.close()
