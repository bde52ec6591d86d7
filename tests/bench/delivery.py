"""Time from the send of a message to the start of its handler, at ten messages a second.

The server writes the time of the send into the UserData. The handler (``handler_timed``) or the loop on the SDK reads
the same clock before it does anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tests.bench.contestants import Rig, Run, started
from tests.bench.measurements import Measurements
from tests.bench.process import BenchError

PART: Final = "delivery"
PER_S: Final = 10
_WARM: Final = 10
_EMPTIED_S: Final = 5.0
_NS_PER_MS: Final = 1e6


def measure(rig: Rig, name: str, seconds: float, measurements: Measurements) -> None:
    """Measure one run of one contestant.

    Raises:
        BenchError: As ``contestants.started``; or a message was not handled.
    """
    count = _WARM + round(seconds * PER_S)
    with rig.run(handler="timed") as run, started(name, run) as contestant:
        contestant.wait()
        rig.server.ask("send", queue=run.queue, per_s=PER_S, count=count)
        rig.server.ask("emptied", queue=run.queue, within_s=_EMPTIED_S)
        delays_ms = _delays_ms(run)
    if len(delays_ms) != count:
        raise BenchError(f"{name}: {count} messages were sent, {len(delays_ms)} came to a handler")
    counted = sorted(delays_ms[_WARM:])
    measurements.add(PART, name, p50_ms=_percentile(counted, 50), p99_ms=_percentile(counted, 99))


def _delays_ms(run: Run) -> list[float]:
    return [int(line) / _NS_PER_MS for line in run.delays.read_text().splitlines()] if run.delays.exists() else []


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that this percentage of the values does not exceed."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
