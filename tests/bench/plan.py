"""The parts of the benchmark and their sizes: by default, with ``--quick``, with ``--long``.

On two quiet cores the default takes about a quarter of an hour and ``--quick`` less than two minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench import ablation, delivery, footprint, ledger, others, results, throughput
from tests.bench.bars import BATCH, LATENCIES_MS, MEMORY_MARKS, SAMPLE
from tests.bench.contestants import ALL, POSTGRES, SQLITE, Rig
from tests.bench.measurements import Measurements, in_turn


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of all parts.

    Args:
        messages: Number of messages in the queue of one run.
        seconds: The most that one run of a full queue takes.
        rounds: Runs of each contestant; parts with long runs have fewer.
        delivery_s: Time during which messages are sent one by one.
        idle_cycles: Number of idle long polls of 30 s.
        results_s: Time during which results are fetched at MPS's limit.
        memory_marks: The numbers of messages after which memory is read.
        tasks: Number of tasks of each general task queue.
    """

    messages: int = 60_000
    seconds: float = 5.0
    rounds: int = 5
    delivery_s: float = 20.0
    idle_cycles: int = 2
    results_s: float = 15.0
    memory_marks: tuple[int, ...] = MEMORY_MARKS[:1]
    tasks: int = 10_000

    @property
    def some_rounds(self) -> int:
        """Rounds of parts with long runs."""
        return max(1, round(self.rounds * 0.6))

    @property
    def few_rounds(self) -> int:
        """Rounds of parts with very long runs, or without a bar."""
        return max(1, round(self.rounds * 0.4))


QUICK: Final = Sizes(
    messages=10_000,
    seconds=1.5,
    rounds=1,
    delivery_s=4.0,
    idle_cycles=1,
    results_s=3.0,
    memory_marks=(20_000,),
    tasks=2_000,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a part needs.

    Args:
        names: The contestants that take part.
        measurements: Gets the figures.
    """

    rig: Rig
    sizes: Sizes
    names: Sequence[str]
    measurements: Measurements

    def of(self, *names: str) -> list[str]:
        """Those of the named contestants that take part."""
        return [name for name in names if name in self.names]


def _throughput(context: Context) -> None:
    load = throughput.Load(context.sizes.messages, context.sizes.seconds)
    for name in in_turn(context.sizes.rounds, *context.of(*ALL)):
        throughput.measure(context.rig, name, load, context.measurements)


def _latency(context: Context) -> None:
    for latency_ms in LATENCIES_MS:
        load = throughput.Load(context.sizes.messages, context.sizes.seconds, latency_ms)
        for name in in_turn(context.sizes.some_rounds, *context.of(SAMPLE, SQLITE)):
            throughput.measure(context.rig, name, load, context.measurements)


def _delivery(context: Context) -> None:
    for name in in_turn(context.sizes.some_rounds, *context.of(BATCH, SQLITE)):
        delivery.measure(context.rig, name, context.sizes.delivery_s, context.measurements)


def _memory(context: Context) -> None:
    for name in context.of(SQLITE):
        footprint.measure_memory(context.rig, name, context.sizes.memory_marks, context.measurements)


def _starts(context: Context) -> None:
    for name in in_turn(context.sizes.rounds, *context.of(BATCH, SQLITE)):
        footprint.measure_start(context.rig, name, context.measurements)


def _idle(context: Context) -> None:
    if names := context.of(BATCH, SQLITE, POSTGRES):
        footprint.measure_idle(context.rig, names, context.sizes.idle_cycles, context.measurements)


def _results(context: Context) -> None:
    results.measure_in_turn(
        context.rig, context.of(SQLITE), context.sizes.results_s, context.sizes.few_rounds, context.measurements
    )


def _others(context: Context) -> None:
    others.measure_in_turn(context.rig, context.sizes.tasks, context.sizes.few_rounds, context.measurements)


def _ledger(context: Context) -> None:
    if context.of(SQLITE):
        load = ledger.Load(2 * context.sizes.messages, 15.0)
        ledger.measure_in_turn(context.rig, load, context.sizes.some_rounds, context.measurements)


def _ablation(context: Context) -> None:
    if context.of(SQLITE):
        ablation.measure(
            context.rig, throughput.Load(context.sizes.messages, 15.0), context.sizes.rounds, context.measurements
        )


PARTS: Final[Mapping[str, Callable[[Context], None]]] = {
    "throughput": _throughput,
    "latency": _latency,
    "delivery": _delivery,
    "start": _starts,
    "memory": _memory,
    "results": _results,
    "idle": _idle,
    "others": _others,
    "ledger": _ledger,
    "ablation": _ablation,
}
LONG: Final = frozenset({"ledger"})
"""Parts that run only with ``--long`` or by name."""
BY_NAME: Final = frozenset({"ablation"})
"""Parts that run only by name."""
NOT_QUICK: Final = frozenset({"idle"})
"""Parts that can't be quick, since a long poll lasts 30 s."""


def chosen(only: Sequence[str], *, quick: bool, long: bool) -> list[str]:
    """The parts to run: those named in ``only``, else all but what ``quick`` and ``long`` leave out."""
    if only:
        return [part for part in PARTS if part in only]
    left_out = BY_NAME | (frozenset() if long else LONG) | (NOT_QUICK if quick else frozenset())
    return [part for part in PARTS if part not in left_out]
