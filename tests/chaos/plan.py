"""What one run of the chaos suite is made of, and carrying it out: a sandbox, a store, daemons, a campaign.

Elsewhere: the run itself (``driver``), which plans are part of the tests (``test_chaos``), longer ones by hand
(``__main__``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import anyio

from consumer.sandbox import Fault, Sandbox
from tests.certificates import make_certificate
from tests.chaos.book import Verdict
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import Nest
from tests.chaos.driver import Campaign
from tests.chaos.preload import Clock
from tests.chaos.stores import SqliteFile, StoreUnderTest, postgres_behind_pooler, postgres_behind_proxy
from tests.chaos.traffic import Edge
from tests.postgres import new_schema


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is made of.

    Args:
        fleet: Daemons at once; more than one need ``postgres``.
        https: Whether the sandbox speaks https.
        peaceful: Whether nothing goes wrong but kills.
        postgres: Whether the store is a PostgreSQL schema.
        edges: Faults beyond the sandbox's own.
    """

    fleet: int = 1
    https: bool = False
    peaceful: bool = False
    postgres: bool = False
    edges: frozenset[Edge] = frozenset()


@dataclass(frozen=True, slots=True)
class Fought:
    """A run that is over."""

    campaign: Campaign
    verdict: Verdict
    faults: Counter[str]


@asynccontextmanager
async def _store(schema: str | None, folder: Path, edges: frozenset[Edge]) -> AsyncIterator[StoreUnderTest]:
    if schema is None:
        yield SqliteFile(folder / "ledger.db")
    elif Edge.POOLER in edges:
        async with postgres_behind_pooler(schema, folder) as pooled:
            yield pooled
    else:
        async with postgres_behind_proxy(schema) as store:
            yield store


def fight(plan: Plan, folder: Path, *, seconds: float, seed: int) -> Fought:
    """One run with an event loop of its own, in whatever thread calls it.

    Args:
        plan: What it is made of.
        folder: For all that it leaves.
        seconds: How long there is trouble; peace comes on top.
        seed: Of every dice in it.
    """
    certificate = make_certificate(folder) if plan.https else None
    settings = {"ca_file": str(certificate)} if certificate else {"log_level": "debug"}

    async def go(schema: str | None) -> Fought:
        async with Sandbox(sandbox_settings(certificate)) as sandbox, _store(schema, folder, plan.edges) as store:
            if plan.peaceful:
                sandbox.faults.add(Fault(kind="duplicate"))
            with Nest(sandbox, folder, store.address, settings) as nest:
                nest.clock = Clock(folder) if Edge.CLOCK in plan.edges else None
                # A stop waits for the handlers that block the loop, one after the other.
                nest.late_s = 10.0 if Edge.BLOCKED in plan.edges else 0.0
                campaign = Campaign(nest, store, seed, plan.fleet, plan.peaceful, plan.edges)
                verdict, faults = await campaign.run(seconds)
                return Fought(campaign, verdict, faults)

    with new_schema() if plan.postgres else nullcontext() as schema:
        return anyio.run(go, schema)


def wrong_beside_the_book(fought: Fought) -> list[str]:
    """What must not be and is no matter of single jobs, one sentence each."""
    campaign, faults = fought.campaign, fought.faults
    # What never came was taken away by a fault: nothing else keeps a job from the queue.
    never_came = campaign.watch.asked.keys() - campaign.watch.jobs.keys()
    taken_away = faults["notification_lost"] + faults["job_stuck"]
    wrong = [f"a secret stands in {name} or in what its daemon served" for name in secrets_told(campaign)]
    if len(never_came) != taken_away:
        wrong.append(f"{len(never_came)} jobs never came, and faults took {taken_away} away")
    if campaign.deaths.keys() != {daemon.pid for daemon in campaign.nest.born}:
        wrong.append("not every daemon that was started was ended")
    return wrong


def secrets_told(campaign: Campaign) -> list[str]:
    """Where a secret stands in what the daemons logged or served."""
    settings = campaign.nest.sandbox.settings
    secrets = [settings.access_key_secret, settings.security_token, campaign.store.secret]
    told = [(daemon.log.name, "\n".join([daemon.log.read_text(), *daemon.served])) for daemon in campaign.nest.born]
    assert all("mns_consumer_polls_total" in text for _, text in told)
    return [name for name, text in told for secret in secrets if secret and secret in text]
