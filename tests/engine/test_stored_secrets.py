"""Secrets that a handler's error repeats are masked before they are stored; bodies are stored byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
        (failed,) = await operators.list_open(limit=9, running=False)
        (run,) = await operators.list_runs(failed.key)
        await operators.close()
    assert stored.letter.body == sent
    assert "refused by https://films.example/?key=***" in stored.letter.error
    assert "***" in str(stored.letter.traceback)
    assert failed.error == run.error == "ConnectionError: no answer from https://films.example/?key=***"
    assert "***" in str(run.traceback)
    assert SECRET not in f"{stored.letter.error}{stored.letter.traceback}{failed}{run}"
