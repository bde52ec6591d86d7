"""How soon a contestant polls: from the start of its process to the arrival of its first receive at the server.

Each daemon has an empty folder, so making its ledger is part of it; byte code is there already, as after a deployment.
"""

from __future__ import annotations

from typing import Final

from tests.bench.contestants import Stage, started
from tests.bench.figures import Book
from tests.bench.process import BenchError

PART: Final = "start"
_MOST_S: Final = 30.0


def measure(stage: Stage, name: str, book: Book) -> None:
    """One start.

    Raises:
        BenchError: As ``contestants.started``; or it never polled.
    """
    server = stage.server
    with stage.place() as place:
        server.ask("listen")
        with started(name, place) as running:
            heard = server.ask("heard", within_s=_MOST_S).told["receive_at_s"]
            running.wait()
            if heard is None:
                raise BenchError(f"{name} did not poll within {_MOST_S:g} s:\n{running.process.told()}")
            book.add(PART, name, first_poll_s=heard - running.process.began_at_s)
