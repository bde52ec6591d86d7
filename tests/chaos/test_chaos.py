"""Nothing lost and nothing run twice without a reason, under every fault of the sandbox, kills and stops at once.

A short run is part of the tests. A long one, with every kind of fault at least 20 times:

    CHAOS_SECONDS=600 pytest -s tests/chaos/test_chaos.py

``CHAOS_SEED`` sets what is sent, the order of the faults and who is killed when; the machine's own timing remains, so
a seed repeats the plan, not every instant. ``-s`` shows the figures, which a failure shows anyway. PostgreSQL is
expected at ``TEST_POSTGRES_URL``. After the trouble a run waits for the queue to be empty: up to a minute more, since
a killed daemon's claims on PostgreSQL hold for 20 s.

Elsewhere: the run itself (``driver``), what counts as wrong (``book``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import pytest

from consumer.sandbox import Sandbox
from tests.chaos.book import Verdict
from tests.chaos.conftest import NoPostgresError, postgres_schema, sandbox_settings, without_postgres
from tests.chaos.daemons import Nest
from tests.chaos.driver import Campaign
from tests.chaos.trouble import KINDS

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "8"))
SEED: Final = int(os.environ.get("CHAOS_SEED", "20260117"))
_FLEETS: Final = {"sqlite": 1, "postgres": 3}
_LONG_S: Final = 600
_EACH_KIND: Final = 20


@dataclass(frozen=True, slots=True)
class Fought:
    """A run that is over."""

    campaign: Campaign
    verdict: Verdict
    faults: Counter[str]


def _fight(engine: str, folder: Path) -> Fought:
    """One run in a thread of its own, with an event loop of its own."""

    async def fight(store: str) -> Fought:
        async with Sandbox(sandbox_settings()) as sandbox:
            with Nest(sandbox, folder, store) as nest:
                campaign = Campaign(nest, SEED, _FLEETS[engine])
                verdict, faults = await campaign.run(SECONDS)
                return Fought(campaign, verdict, faults)

    with postgres_schema() if engine == "postgres" else nullcontext(str(folder / "ledger.db")) as store:
        return anyio.run(fight, store)


@pytest.fixture(scope="module")
def fights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Fought]]]:
    """A run on each engine, both at once: most of their time is waiting for leases and claims of the killed."""
    with ThreadPoolExecutor(len(_FLEETS)) as threads:
        yield {engine: threads.submit(_fight, engine, tmp_path_factory.mktemp(engine)) for engine in _FLEETS}


@pytest.mark.timeout(SECONDS + 150)
@pytest.mark.parametrize("engine", _FLEETS)
def test_nothing_is_lost_and_every_repeat_has_its_reason(fights: dict[str, Future[Fought]], engine: str) -> None:
    """Every job that came was handled or set aside as it had to be, before its delete, and each repeat is explained."""
    try:
        fought = fights[engine].result()
    except NoPostgresError as error:
        without_postgres(error)
    campaign, faults = fought.campaign, fought.faults
    figures = campaign.figures(fought.verdict, faults)
    print(f"\n{engine}: {figures}")  # noqa: T201 - the run's figures are what it is for
    assert not fought.verdict.wrong, figures
    # What never came was taken away by a fault: nothing else keeps a job from the queue.
    never_came = campaign.watch.asked.keys() - campaign.watch.jobs.keys()
    assert len(never_came) == faults["notification_lost"] + faults["job_stuck"], figures
    nest = campaign.nest
    assert campaign.deaths.keys() == {daemon.pid for daemon in nest.born}
    secret = nest.sandbox.settings.access_key_secret
    assert not [daemon.log.name for daemon in nest.born if secret in daemon.log.read_text()]
    if SECONDS >= _LONG_S:
        assert not {kind: faults[kind] for kind in KINDS if faults[kind] < _EACH_KIND}, figures
