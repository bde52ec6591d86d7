"""Nothing lost and nothing run twice without a reason, under every fault of the sandbox, kills and stops at once.

    sqlite     one daemon, http, all faults, kills and stops
    postgres   four daemons, https, all faults, kills and stops
    fleet      four daemons on PostgreSQL, every message of which comes twice, and nothing but kills

A short run is part of the tests. A long one, with every kind of fault at least 20 times:

    CHAOS_SECONDS=600 pytest -s tests/chaos/test_chaos.py

``CHAOS_SEED`` sets what is sent, the order of the faults and who is killed when; the machine's own timing remains, so
a seed repeats the plan, not every instant. ``-s`` shows the figures, which a failure shows anyway. PostgreSQL is
expected at ``TEST_POSTGRES_URL``. After the trouble a run waits for the queue to be empty, as long as something leaves
it at least once a minute: a killed daemon's claims on PostgreSQL hold for 20 s, and jobs that were killed in the
middle of their work run one at a time.

Elsewhere: the run itself (``driver``), what counts as wrong (``book``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import pytest

from consumer.sandbox import Fault, Sandbox
from tests.certificates import make_certificate
from tests.chaos.book import Verdict, Why
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import Nest
from tests.chaos.driver import Campaign
from tests.chaos.stores import SqliteFile, StoreUnderTest, postgres_behind_proxy
from tests.chaos.trouble import KINDS
from tests.postgres import NoPostgresError, new_schema

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "8"))
SEED: Final = int(os.environ.get("CHAOS_SEED", "20260117"))
_LONG_S: Final = 600
_EACH_KIND: Final = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is made of.

    Args:
        fleet: Daemons at once; more than one need PostgreSQL.
        https: Whether the sandbox speaks https.
        peaceful: Whether nothing goes wrong but kills.
    """

    fleet: int = 1
    https: bool = False
    peaceful: bool = False


PLANS: Final = {
    "sqlite": Plan(),
    "postgres": Plan(fleet=4, https=True),
    "fleet": Plan(fleet=4, peaceful=True),
}


@dataclass(frozen=True, slots=True)
class Fought:
    """A run that is over."""

    campaign: Campaign
    verdict: Verdict
    faults: Counter[str]


@asynccontextmanager
async def _store(schema: str | None, folder: Path) -> AsyncIterator[StoreUnderTest]:
    if schema is None:
        yield SqliteFile(folder / "ledger.db")
    else:
        async with postgres_behind_proxy(schema) as store:
            yield store


def _fight(plan: Plan, folder: Path) -> Fought:
    """One run in a thread of its own, with an event loop of its own."""
    certificate = make_certificate(folder) if plan.https else None
    settings = {"ca_file": str(certificate)} if certificate else {"log_level": "debug"}

    async def fight(schema: str | None) -> Fought:
        async with Sandbox(sandbox_settings(certificate)) as sandbox, _store(schema, folder) as store:
            if plan.peaceful:
                sandbox.faults.add(Fault(kind="duplicate"))
            with Nest(sandbox, folder, store.address, settings) as nest:
                campaign = Campaign(nest, store, SEED, plan.fleet, plan.peaceful)
                verdict, faults = await campaign.run(SECONDS)
                return Fought(campaign, verdict, faults)

    with new_schema() if plan.fleet > 1 else nullcontext() as schema:
        return anyio.run(fight, schema)


@pytest.fixture(scope="module")
def fights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Fought]]]:
    """A run of each plan; short ones all at once: most of their time is waiting for leases and claims of the killed."""
    with ThreadPoolExecutor(1 if SECONDS >= _LONG_S else len(PLANS)) as threads:
        yield {name: threads.submit(_fight, plan, tmp_path_factory.mktemp(name)) for name, plan in PLANS.items()}


@pytest.mark.timeout(3 * SECONDS + 300)
@pytest.mark.parametrize("name", PLANS)
def test_nothing_is_lost_and_every_repeat_has_its_reason(fights: dict[str, Future[Fought]], name: str) -> None:
    """Every job that came was handled or set aside as it had to be, before its delete, and each repeat is explained."""
    try:
        fought = fights[name].result()
    except NoPostgresError as error:
        error.demand()
    campaign, faults, verdict = fought.campaign, fought.faults, fought.verdict
    figures = campaign.figures(verdict, faults)
    print(f"\n{name}: {figures}")  # noqa: T201 - the run's figures are what it is for
    assert not verdict.wrong, figures
    # What never came was taken away by a fault: nothing else keeps a job from the queue.
    never_came = campaign.watch.asked.keys() - campaign.watch.jobs.keys()
    assert len(never_came) == faults["notification_lost"] + faults["job_stuck"], figures
    assert campaign.deaths.keys() == {daemon.pid for daemon in campaign.nest.born}
    assert secrets_told(campaign) == [], figures
    if PLANS[name].peaceful:
        assert verdict.again.keys() <= {Why.KILLED}, figures
    elif SECONDS >= _LONG_S:
        assert not {kind: faults[kind] for kind in KINDS if faults[kind] < _EACH_KIND}, figures


def secrets_told(campaign: Campaign) -> list[str]:
    """Where a secret stands in what the daemons logged or served."""
    settings = campaign.nest.sandbox.settings
    secrets = [settings.access_key_secret, settings.security_token, campaign.store.secret]
    told = [(daemon.log.name, "\n".join([daemon.log.read_text(), *daemon.served])) for daemon in campaign.nest.born]
    assert all("mns_consumer_polls_total" in text for _, text in told)
    return [name for name, text in told for secret in secrets if secret and secret in text]
