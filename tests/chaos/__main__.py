"""A chaos run by hand: some seconds of faults on one store, then the verdict.

    python -m tests.chaos --seconds 600 --store sqlite --seed 7 --faults clock,freeze,bad_jobs

It uses loopback only and starts at most one daemon every two seconds. It ends with 0 if no rule of ``verdict`` is
violated, else with 1. PostgreSQL is expected at ``TEST_POSTGRES_URL``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.chaos.campaign import Plan, carry_out
from tests.chaos.traffic import Extra

_LONGEST_S: Final = 3600.0
_USABLE: Final = {
    "sqlite": frozenset(Extra) - {Extra.POOLER, Extra.FAILOVER},
    "postgres": frozenset(Extra) - {Extra.FILES},
}


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {_LONGEST_S:g}")
    return seconds


def _extras(text: str) -> frozenset[Extra]:
    return frozenset(Extra(name) for name in text.split(",") if name not in {"", "none"})


def main() -> int:
    """Read the command line, run, and print the figures and the violations."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, help="with faults; the time until the queue is empty comes on top"
    )
    parser.add_argument("--store", choices=list(_USABLE), default="sqlite")
    parser.add_argument("--seed", type=int, default=20260117)
    parser.add_argument(
        "--faults",
        type=_extras,
        default=frozenset(),
        help=f"besides the sandbox's, by commas: {', '.join(Extra)} (files: SQLite; pooler, failover: PostgreSQL)",
    )
    parser.add_argument("--folder", type=Path, help="for logs, journal and store; default: a new temporary folder")
    chosen = parser.parse_args()
    if not_here := chosen.faults - _USABLE[chosen.store]:
        parser.error(f"{', '.join(sorted(not_here))}: not on {chosen.store}")
    if {Extra.POOLER, Extra.FAILOVER} <= chosen.faults:
        parser.error("pooler, failover: one of both")
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    is_postgres = chosen.store == "postgres"
    plan = Plan(fleet=4 if is_postgres else 1, https=is_postgres, postgres=is_postgres, extras=chosen.faults)
    print(f"{chosen.store}, {chosen.seconds:g} s, in {folder}", flush=True)  # noqa: T201 - the command's answer
    finished = carry_out(plan, folder, seconds=chosen.seconds, seed=chosen.seed)
    finished.verdict.wrong += finished.wrong_overall()
    print(finished.figures)  # noqa: T201 - the command's answer
    return 1 if finished.verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
