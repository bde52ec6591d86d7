"""Any order of calls by two holders gives the answers of a model of the ledger, on both engines.

On PostgreSQL keys are lost in between, as by a failover to a standby that lacks them.
"""

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from consumer.policy import Reason
from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Ended, JobRecord, Ledger
from tests.store.postgres_rig import psql
from tests.store.records import run
from tests.stores import ledger_at

LONG_S = 3600.0
OVER_S = 1e-6
KEYS = st.sampled_from(["a", "b", "c"])
HOLDERS = st.integers(0, 1)
LEASES = st.sampled_from([LONG_S, OVER_S])

T = TypeVar("T")


@dataclass
class Key:
    """What the model knows of a key."""

    holder: int | None = None
    over: bool = False
    started: bool = False
    failures: int = 0
    starts: int = 0
    dead: bool | None = None
    ended_by: int | None = None


class LedgerModel(RuleBasedStateMachine):
    """Two holders on one store. On SQLite the second comes only after the first has closed the file."""

    target: ClassVar[str]
    round: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        LedgerModel.round += 1
        self.loop = asyncio.new_event_loop()
        self.sqlite = "://" not in self.target
        self.keys = {name: Key() for name in "abc"}
        self.generation = 0
        self.ledgers: list[Ledger] = []
        self._place = f"{self.target}.{LedgerModel.round}" if self.sqlite else self.target
        for _ in range(1 if self.sqlite else 2):
            self._open()

    def _open(self) -> None:
        ledger = ledger_at(self._place)
        self.do(ledger.open())
        self.ledgers.append(ledger)

    def do(self, call: Awaitable[T]) -> T:
        """Wait for a call."""

        async def run() -> T:
            return await call

        return self.loop.run_until_complete(run())

    def at(self, holder: int) -> tuple[int, Ledger]:
        """Who is meant: on SQLite there is only the present owner."""
        return (self.generation, self.ledgers[-1]) if self.sqlite else (holder, self.ledgers[holder])

    def name(self, key: str) -> str:
        """The key as the store knows it: each round has keys of its own."""
        return f"{self.round} {key}"

    def record(self, key: str) -> JobRecord:
        """What is kept of a key."""
        return JobRecord(key=self.name(key), queue="q", kind="k", function="f", message_id="m")

    @rule(key=KEYS, holder=HOLDERS, lease_s=LEASES)
    def claim(self, key: str, holder: int, lease_s: float) -> None:
        """A key is claimed when it is open and no other claim runs."""
        who, ledger = self.at(holder)
        state = self.keys[key]
        answer = self.do(ledger.claim(self.name(key), lease_s))
        if state.dead is not None:
            assert answer == Ended(dead=state.dead, function="f")
        elif state.holder is not None and not state.over:
            assert isinstance(answer, Elsewhere)
        else:
            assert answer == Claimed(state.failures, state.starts)
            state.holder, state.over, state.started = who, lease_s == OVER_S, False

    @rule(key=KEYS, holder=HOLDERS, lease_s=LEASES)
    def renew(self, key: str, holder: int, lease_s: float) -> None:
        """Only the holder renews."""
        who, ledger = self.at(holder)
        state = self.keys[key]
        gone = self.do(ledger.renew([self.name(key)], lease_s))
        if state.holder == who:
            assert list(gone) == []
            state.over = lease_s == OVER_S
        else:
            assert list(gone) == [self.name(key)]

    @rule(key=KEYS, holder=HOLDERS)
    def start(self, key: str, holder: int) -> None:
        """Only the holder starts, once a claim."""
        who, ledger = self.at(holder)
        state = self.keys[key]
        if state.holder == who and not state.started:
            state.starts, state.started = state.starts + 1, True
        assert self.do(ledger.start(self.name(key))) == state.starts

    @rule(key=KEYS, holder=HOLDERS)
    def fail(self, key: str, holder: int) -> None:
        """Only the holder fails a key, which releases it."""
        who, ledger = self.at(holder)
        state = self.keys[key]
        if state.holder == who:
            state.failures += 1
            self._release(state)
        assert self.do(ledger.fail(run(self.name(key), "broke"))) == state.failures

    @rule(key=KEYS, holder=HOLDERS)
    def release(self, key: str, holder: int) -> None:
        """Only the holder releases, and nothing is counted."""
        who, ledger = self.at(holder)
        if self.keys[key].holder == who:
            self._release(self.keys[key])
        self.do(ledger.release(self.name(key)))

    @rule(key=KEYS, holder=HOLDERS, dead=st.booleans())
    def end(self, key: str, holder: int, dead: bool) -> None:  # noqa: FBT001 - hypothesis gives it by name
        """Only the holder ends, and only it hears so when it says it again."""
        who, ledger = self.at(holder)
        state = self.keys[key]
        if state.holder == who:
            self._release(state)
            state.failures = state.starts = 0
            state.dead, state.ended_by = dead, who
        letter = DeadLetterRecord(job=self.record(key), reason=Reason.REJECTED, error="e", body=b"")
        answer = self.do(ledger.set_aside(letter) if dead else ledger.done(self.record(key)))
        assert answer == (state.dead is dead and state.ended_by == who)

    @rule()
    def take_over(self) -> None:
        """On SQLite, opening the file again ends every claim; PostgreSQL's holders stay as they are."""
        if not self.sqlite:
            return
        self.do(self.ledgers.pop().close())
        self._open()
        self.generation += 1
        for state in self.keys.values():
            state.holder, state.over, state.started = None, False, False

    @rule(key=KEYS)
    def lose(self, key: str) -> None:
        """On PostgreSQL, an open key that is gone is a new key; its holder has lost it."""
        state = self.keys[key]
        if not self.sqlite and state.dead is None:
            self.do(self._delete(self.name(key)))
            self.keys[key] = Key()

    async def _delete(self, name: str) -> None:
        async with psql(self.target) as connection:
            await connection.execute("DELETE FROM mns_consumer_job WHERE key = $1", name)

    @invariant()
    def ended_keys_have_no_holder(self) -> None:
        """The model agrees with itself."""
        assert all(state.holder is None for state in self.keys.values() if state.dead is not None)

    def _release(self, state: Key) -> None:
        state.starts -= state.started
        state.holder, state.over, state.started = None, False, False

    def teardown(self) -> None:
        """Close what is open."""
        for ledger in self.ledgers:
            self.do(ledger.close())
        self.loop.close()


@pytest.mark.parametrize("target", ["sqlite", "postgres"], indirect=True)
def test_any_order(target: str) -> None:
    """Every answer to any calls of two holders in any order is the model's."""
    machine: Any = type("Machine", (LedgerModel,), {"target": target})
    examples = int(os.environ.get("HYPOTHESIS_EXAMPLES", "25"))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
