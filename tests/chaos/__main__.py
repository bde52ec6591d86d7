"""A chaos run by hand: so many seconds of trouble on one store, then the verdict.

    python -m tests.chaos --seconds 600 --store sqlite --seed 7 --faults clock,freeze,bad_jobs

It talks to loopback alone, starts at most one daemon every two seconds, and ends by itself: with 0 when nothing is
wrong, with 1 otherwise. PostgreSQL is expected at ``TEST_POSTGRES_URL``.

Elsewhere: what a run is made of (``plan``), what counts as wrong (``book``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.chaos.plan import Plan, fight, wrong_beside_the_book
from tests.chaos.traffic import Edge

_LONGEST_S: Final = 3600.0
_USABLE: Final = {"sqlite": frozenset(Edge) - {Edge.POOLER}, "postgres": frozenset(Edge) - {Edge.FILES}}


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {_LONGEST_S:g}")
    return seconds


def _edges(text: str) -> frozenset[Edge]:
    return frozenset(Edge(name) for name in text.split(",") if name not in {"", "none"})


def main() -> int:
    """Read the command line, run, and print the figures and what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="of trouble; peace comes on top")
    parser.add_argument("--store", choices=list(_USABLE), default="sqlite")
    parser.add_argument("--seed", type=int, default=20260117)
    parser.add_argument(
        "--faults",
        type=_edges,
        default=frozenset(),
        help=f"beyond the sandbox's own, joined by commas: {', '.join(Edge)} (files on SQLite, pooler on PostgreSQL)",
    )
    parser.add_argument("--folder", type=Path, help="for logs, journal and store; a new one under the system's")
    chosen = parser.parse_args()
    if unfit := chosen.faults - _USABLE[chosen.store]:
        parser.error(f"{', '.join(sorted(unfit))}: not on {chosen.store}")
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    is_postgres = chosen.store == "postgres"
    plan = Plan(fleet=4 if is_postgres else 1, https=is_postgres, postgres=is_postgres, edges=chosen.faults)
    print(f"{chosen.store}, {chosen.seconds:g} s, in {folder}", flush=True)  # noqa: T201 - the command's answer
    fought = fight(plan, folder, seconds=chosen.seconds, seed=chosen.seed)
    fought.verdict.wrong += wrong_beside_the_book(fought)
    print(fought.campaign.figures(fought.verdict, fought.faults))  # noqa: T201 - the command's answer
    return 1 if fought.verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
