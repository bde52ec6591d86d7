"""Which parts there are and how large each is: by default, with ``--quick``, with ``--long``.

By default everything takes about a quarter of an hour on two quiet cores, with ``--quick`` less than two minutes. What
takes long for the sake of one bar runs only with ``--long``.

Elsewhere: each part in the module of its name, the command line (``__main__``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench import ablation, delivery, idle, ledger, memory, others, results, starts, throughput
from tests.bench.bars import BATCH, LATENCIES_MS, MEMORY_MARKS, SAMPLE
from tests.bench.contestants import ALL, POSTGRES, SQLITE, Stage
from tests.bench.figures import Book, in_turn


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a run of the benchmark is.

    Args:
        messages: In the queue of one run.
        seconds: The most that one run of a full queue takes.
        rounds: How often A B A B ... goes round; parts whose runs are long go round less often.
        delivery_s: For how long messages come one by one.
        idle_cycles: Idle long polls of 30 s.
        results_s: For how long results are fetched under MPS's limit.
        memory_marks: After how many messages memory is looked at.
        tasks: Of each general task queue.
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
        """Rounds of parts with very long runs, or of no bar."""
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
class Asked:
    """What a part is given.

    Args:
        stage: Where it runs.
        sizes: How large it is.
        names: Which contestants take part.
        book: Takes its figures.
    """

    stage: Stage
    sizes: Sizes
    names: Sequence[str]
    book: Book

    def of(self, *names: str) -> list[str]:
        """Those of these contestants that take part."""
        return [name for name in names if name in self.names]


def _throughput(asked: Asked) -> None:
    load = throughput.Load(asked.sizes.messages, asked.sizes.seconds)
    for name in in_turn(asked.sizes.rounds, *asked.of(*ALL)):
        throughput.measure(asked.stage, name, load, asked.book)


def _latency(asked: Asked) -> None:
    for latency_ms in LATENCIES_MS:
        load = throughput.Load(asked.sizes.messages, asked.sizes.seconds, latency_ms)
        for name in in_turn(asked.sizes.some_rounds, *asked.of(SAMPLE, SQLITE)):
            throughput.measure(asked.stage, name, load, asked.book)


def _delivery(asked: Asked) -> None:
    for name in in_turn(asked.sizes.some_rounds, *asked.of(BATCH, SQLITE)):
        delivery.measure(asked.stage, name, asked.sizes.delivery_s, asked.book)


def _memory(asked: Asked) -> None:
    for name in asked.of(SQLITE):
        memory.measure(asked.stage, name, asked.sizes.memory_marks, asked.book)


def _starts(asked: Asked) -> None:
    for name in in_turn(asked.sizes.rounds, *asked.of(BATCH, SQLITE)):
        starts.measure(asked.stage, name, asked.book)


def _idle(asked: Asked) -> None:
    if names := asked.of(BATCH, SQLITE, POSTGRES):
        idle.measure_all(asked.stage, names, asked.sizes.idle_cycles, asked.book)


def _results(asked: Asked) -> None:
    results.measure_in_turn(asked.stage, asked.of(SQLITE), asked.sizes.results_s, asked.sizes.few_rounds, asked.book)


def _others(asked: Asked) -> None:
    others.measure_in_turn(asked.stage, asked.sizes.tasks, asked.sizes.few_rounds, asked.book)


def _ledger(asked: Asked) -> None:
    if asked.of(SQLITE):
        load = ledger.Load(2 * asked.sizes.messages, 15.0)
        ledger.measure_in_turn(asked.stage, load, asked.sizes.some_rounds, asked.book)


def _ablation(asked: Asked) -> None:
    if asked.of(SQLITE):
        ablation.measure(asked.stage, throughput.Load(asked.sizes.messages, 15.0), asked.sizes.rounds, asked.book)


PARTS: Final[Mapping[str, Callable[[Asked], None]]] = {
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
"""Parts that can't be made quick, since a long poll lasts 30 s."""


def chosen(only: Sequence[str], *, quick: bool, long: bool) -> list[str]:
    """Which parts run.

    Args:
        only: Those that were named; none is all that fit the rest.
        quick: Whether it is to be quick.
        long: Whether it may be long.
    """
    if only:
        return [part for part in PARTS if part in only]
    left_out = BY_NAME | (frozenset() if long else LONG) | (NOT_QUICK if quick else frozenset())
    return [part for part in PARTS if part not in left_out]
