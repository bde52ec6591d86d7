"""Nothing lost and nothing run twice without a reason, under every fault of the sandbox, kills and stops at once.

    sqlite     one daemon, http, all faults, kills and stops, and jobs that MPS fails for
    postgres   four daemons, https, all faults, kills and stops, and wall clocks that step
    fleet      four daemons on PostgreSQL, every message of which comes twice, and nothing but kills

A short run is part of the tests. A long one, with every kind of fault at least 20 times:

    CHAOS_SECONDS=600 pytest -s tests/chaos/test_chaos.py

More faults beyond the sandbox's own (frozen daemons, moved files, a pooler, a blocked event loop, hanging answers of
MPS) are switched on by hand: ``python -m tests.chaos --help``.

``CHAOS_SEED`` sets what is sent, the order of the faults and who is killed when; the machine's own timing remains, so
a seed repeats the plan, not every instant. ``-s`` shows the figures, which a failure shows anyway. PostgreSQL is
expected at ``TEST_POSTGRES_URL``. After the trouble a run waits for the queue to be empty, as long as something leaves
it at least once a minute: a killed daemon's claims on PostgreSQL hold for 20 s, and jobs that were killed in the
middle of their work run one at a time.

Elsewhere: the run itself (``driver``), what counts as wrong (``book``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from tests.chaos.book import Why
from tests.chaos.plan import Fought, Plan, fight, wrong_beside_the_book
from tests.chaos.traffic import Edge
from tests.chaos.trouble import KINDS
from tests.postgres import NoPostgresError

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "8"))
SEED: Final = int(os.environ.get("CHAOS_SEED", "20260117"))
_LONG_S: Final = 600
_EACH_KIND: Final = 20


_CLOCK: Final = (Edge.CLOCK,) if sys.platform == "linux" else ()
PLANS: Final = {
    "sqlite": Plan(edges=frozenset({Edge.BAD_JOBS})),
    # The preloaded clock is Linux's.
    "postgres": Plan(
        fleet=4, https=True, postgres=True, edges=frozenset({Edge.CLOCK} if sys.platform == "linux" else ())
    ),
    "fleet": Plan(fleet=4, peaceful=True, postgres=True),
}


@pytest.fixture(scope="module")
def fights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Fought]]]:
    """A run of each plan; short ones all at once: most of their time is waiting for leases and claims of the killed."""
    with ThreadPoolExecutor(1 if SECONDS >= _LONG_S else len(PLANS)) as threads:
        yield {
            name: threads.submit(fight, plan, tmp_path_factory.mktemp(name), seconds=SECONDS, seed=SEED)
            for name, plan in PLANS.items()
        }


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
    assert wrong_beside_the_book(fought) == [], figures
    if PLANS[name].peaceful:
        assert verdict.again.keys() <= {Why.KILLED}, figures
    elif SECONDS >= _LONG_S:
        assert not {kind: faults[kind] for kind in KINDS if faults[kind] < _EACH_KIND}, figures
