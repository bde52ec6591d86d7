"""No job is lost and no handler runs again without a cause, under all faults of the sandbox, kills and stops.

    sqlite     one daemon, http, all faults, kills and stops, and jobs that MPS fails for
    postgres   four daemons, https, all faults, kills and stops, and wall clocks that step
    fleet      four daemons on PostgreSQL, every message delivered twice, and kills only
    failover   two daemons on a pair of servers that fails over to a standby without the last second, and all faults

A short run is part of the tests. A long one has every kind of fault at least 20 times:

    CHAOS_SECONDS=600 pytest -s tests/chaos/test_chaos.py

Further faults (frozen daemons, moved files, a pooler, a blocked event loop, hanging answers of MPS) are switched on by
hand: ``python -m tests.chaos --help``.

``CHAOS_SEED`` decides what is sent, the order of the faults and which daemon is killed when. The timing of the machine
differs, so a seed does not repeat every instant. ``-s`` shows the figures, which a failure shows anyway. PostgreSQL is
expected at ``TEST_POSTGRES_URL``. After the faults a run waits until the queue is empty, as long as a message leaves
it at least once a minute: a killed daemon's claims on PostgreSQL are valid for 20 s, and jobs whose daemon was killed
while they ran are run one at a time.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.campaign import Finished, Plan, carry_out
from tests.chaos.faults import KINDS, STORE
from tests.chaos.traffic import Extra
from tests.chaos.verdict import Cause
from tests.postgres import NoPostgresError

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "8"))
SEED: Final = int(os.environ.get("CHAOS_SEED", "20260117"))
_LONG_S: Final = 600
_EACH_KIND: Final = 20
PLANS: Final = {
    "sqlite": Plan(extras=frozenset({Extra.BAD_JOBS})),
    # The preloaded clock needs Linux.
    "postgres": Plan(
        fleet=4, https=True, postgres=True, extras=frozenset({Extra.CLOCK} if sys.platform == "linux" else ())
    ),
    "fleet": Plan(fleet=4, only_kills=True, postgres=True),
    "failover": Plan(fleet=2, postgres=True, extras=frozenset({Extra.FAILOVER})),
}


@pytest.mark.timeout(3 * SECONDS + 300)
def test_no_job_is_lost_and_every_repeat_has_a_cause(tmp_path: Path) -> None:
    """Every job was handled or is a dead letter as it had to be, before its delete, and each repeat has a cause."""
    # Short runs go at once, since they mostly wait for leases and claims of killed daemons.
    with ThreadPoolExecutor(1 if SECONDS >= _LONG_S else len(PLANS)) as threads:
        runs = {}
        for name, plan in PLANS.items():
            folder = tmp_path / name
            folder.mkdir()
            runs[name] = threads.submit(carry_out, plan, folder, seconds=SECONDS, seed=SEED)
    for name, plan in PLANS.items():
        try:
            finished = runs[name].result()
        except NoPostgresError as error:
            error.demand()
        check(name, plan, finished)


def check(name: str, plan: Plan, finished: Finished) -> None:
    faults, verdict, figures = finished.faults, finished.verdict, f"{name}: {finished.figures}"
    print(f"\n{figures}")  # noqa: T201 - the figures are the result
    assert not verdict.wrong, figures
    assert finished.wrong_overall() == [], figures
    if Extra.FAILOVER in plan.extras:
        assert faults[STORE], figures
    if plan.only_kills:
        assert verdict.again.keys() <= {Cause.KILLED}, figures
    elif SECONDS >= _LONG_S:
        assert not {kind: faults[kind] for kind in KINDS if faults[kind] < _EACH_KIND}, figures
