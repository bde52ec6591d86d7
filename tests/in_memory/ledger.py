"""A store in memory: the protocols of ``store.ledger`` and what tests ask of ``store.queries``.

The suite of ``tests/store/test_store_ledger.py`` holds it and the real engines alike. Times follow the module ``time``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from consumer.errors import StoreError
from consumer.policy import Reason
from consumer.store.ledger import (
    COUNT_CAP,
    NEVER_REPLAYED,
    Begun,
    Claimed,
    DeadLetterRecord,
    Elsewhere,
    Ended,
    Filter,
    JobRecord,
    LetterState,
    Progress,
    RunRecord,
    Standby,
    StoredJob,
    StoredLetter,
    WaitingLetters,
)
from consumer.store.queries import unknown_letter
from consumer.store.rows import RUNS_KEPT, fit, fit_letter, fit_record, fit_run

_MOST = 2**63 - 1


@dataclass
class _Key:
    """An open key: who holds it, until when, and what it has been through."""

    failures: int = 0
    starts: int = 0
    holder: object = None
    held_until: float = 0.0
    started: bool = False
    trace_parent: str | None = None
    stored_at: float = field(default_factory=lambda: time.time())  # noqa: PLW0108 - looked up anew: it may be replaced


class MemoryStore:
    """What several ledgers share."""

    def __init__(self) -> None:
        self.open_keys: dict[str, _Key] = {}
        self.ended: dict[str, StoredJob] = {}
        self.ended_by: dict[str, object] = {}
        self.runs: dict[int, tuple[float, RunRecord]] = {}
        """Those that have left their jobs open, and when they were stored."""
        self.last_run = 0
        self.letters: dict[int, StoredLetter] = {}
        self.last_letter = 0
        self.down: StoreError | None = None
        """Every call of every ledger raises it, as when a database went away."""
        self.writes: list[str] = []
        """The name of every write that was carried out, in order."""
        self.answer_s = 0.0
        """How long every answer takes."""

    def ledger(self) -> MemoryLedger:
        """Another holder."""
        return MemoryLedger(self)

    @property
    def done(self) -> list[JobRecord]:
        """Jobs that are done."""
        return [job.record for job in self.ended.values() if not job.dead]

    @property
    def dead(self) -> list[DeadLetterRecord]:
        """Dead letters that are not replayed."""
        return [one.letter for one in self.letters.values() if one.state is not LetterState.REPLAYED]


class MemoryLedger:
    """One holder's ledger."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self._is_open = False
        self._closed = asyncio.Event()

    async def open(self) -> None:
        await self._answer("open", is_open=True)
        self._is_open = True
        self._closed.clear()

    async def close(self) -> None:
        self._is_open = False
        self._closed.set()

    async def claim(self, key: str, lease_s: float) -> Claimed | Ended | Elsewhere:
        _demand_finite(lease_s)
        # The effect comes at once, the answer later: a call that is cancelled runs its course.
        self._demand("claim", key)
        answer = self._claim(key, lease_s)
        await self._pause()
        return answer

    def _claim(self, key: str, lease_s: float) -> Claimed | Ended | Elsewhere:
        if (job := self.store.ended.get(key)) is not None:
            record = job.record
            return Ended(job.dead, record.function, record.state, record.user_data)
        found = self.store.open_keys.setdefault(key, _Key())
        left_s = found.held_until - time.monotonic()
        if found.holder is not None and left_s > 0:
            return Elsewhere(left_s)
        found.holder, found.held_until = self, time.monotonic() + lease_s
        found.started = False
        return Claimed(found.failures, found.starts, found.trace_parent)

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        _demand_finite(lease_s)
        self._demand("renew", *keys)
        gone = [key for key in keys if self._ours(key) is None]
        for key in keys:
            if (found := self._ours(key)) is not None:
                found.held_until = time.monotonic() + lease_s
        await self._pause()
        return gone

    async def start(self, key: str) -> int:
        self._demand("start", key)
        if (found := self._ours(key)) is not None and not found.started:
            found.started = True
            found.starts += 1
        starts = self._counts(key).starts
        await self._pause()
        return starts

    async def done(self, record: JobRecord) -> bool:
        self._demand("done", record.key)
        _demand_storable(record)
        closed = self._close(fit_record(record), dead=False)
        await self._pause()
        return closed

    async def fail(self, run: RunRecord) -> int:
        self._demand("fail", run.key)
        if (found := self._ours(run.key)) is not None:
            found.failures += 1
            self._store_run(found, run)
            self._let_go(found)
        failures = self._counts(run.key).failures
        await self._pause()
        return failures

    async def release(self, key: str, run: RunRecord | None = None) -> None:
        self._demand("release", key)
        if (found := self._ours(key)) is not None:
            if run is not None:
                self._store_run(found, run)
            self._let_go(found)
        await self._pause()

    def _store_run(self, found: _Key, run: RunRecord) -> None:
        run, runs = fit_run(run), self.store.runs
        found.trace_parent = run.trace_parent
        earlier = [number for number, (_, one) in runs.items() if one.key == run.key]
        for number in earlier:
            at, one = runs[number]
            if run.traceback is not None and one.error == run.error:
                runs[number] = (at, replace(one, traceback=None))
        for number in earlier[: max(0, len(earlier) + 1 - RUNS_KEPT)]:
            del runs[number]
        self.store.last_run += 1
        runs[self.store.last_run] = (time.time(), run)

    async def set_aside(self, letter: DeadLetterRecord) -> bool:
        self._demand("set_aside", letter.job.key)
        _demand_storable(letter.job)
        fitting = fit_letter(letter)
        is_new = fitting.job.key not in self.store.ended
        if (closed := self._close(fitting.job, dead=True)) and is_new:
            self.store.last_letter += 1
            number = self.store.last_letter
            self.store.letters[number] = StoredLetter(number, fitting, LetterState.SET_ASIDE, time.time())
        await self._pause()
        return closed

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        self._demand("prune")
        store, before = self.store, time.time() - older_than_s
        old: list[tuple[dict[Any, Any], str | int]] = []
        old += [(store.ended, key) for key, job in store.ended.items() if job.stored_at <= before]
        old += [
            (store.open_keys, key)
            for key, found in store.open_keys.items()
            if found.holder is None and found.stored_at <= before
        ]
        old += [(store.runs, number) for number, (at, _) in store.runs.items() if at <= before]
        old += [
            (store.letters, number)
            for number, one in store.letters.items()
            if (one.state is LetterState.REPLAYED and (one.replayed_at or 0) <= before)
            or (letters_older_than_s is not None and one.stored_at <= time.time() - letters_older_than_s)
        ]
        for table, key in old[:limit]:
            del table[key]
        await self._pause()
        return len(old[:limit])

    async def take_due_hooks(self, queue: str, *, limit: int, least_s: float, most_s: float) -> Sequence[StoredLetter]:
        self._demand("take_due_hooks")
        now = time.time()
        due = [
            (one.letter.hook_at, one)
            for one in self.store.letters.values()
            if one.state is LetterState.SET_ASIDE and one.letter.job.queue == queue and one.letter.hook_at is not None
        ]
        ripe = sorted((at, one.id) for at, one in due if at <= now)[:limit]
        for _, number in ripe:
            one = self.store.letters[number]
            again_at = now + min(max(now - one.stored_at, least_s), most_s)
            self.store.letters[number] = replace(one, letter=replace(one.letter, hook_at=again_at))
        taken = [self.store.letters[number] for _, number in ripe]
        await self._pause()
        return taken

    async def hook_done(self, letter_id: int) -> None:
        self._demand("hook_done")
        if (one := self.store.letters.get(letter_id)) is not None:
            self.store.letters[letter_id] = replace(one, letter=replace(one.letter, hook_at=None))
        await self._pause()

    async def waiting(self) -> Sequence[WaitingLetters]:
        await self._answer("waiting")
        groups: dict[tuple[str, Reason], list[StoredLetter]] = {}
        for one in self.store.letters.values():
            if one.state is not LetterState.REPLAYED:
                groups.setdefault((one.letter.job.queue, one.letter.reason), []).append(one)
        return [
            WaitingLetters(
                queue, reason, len(of), sum(one.letter.size_bytes for one in of), min(one.stored_at for one in of)
            )
            for (queue, reason), of in sorted(groups.items())
        ]

    async def now(self) -> float:
        await self._answer("now")
        return time.time()

    async def ping(self) -> None:
        await self._answer("ping")

    def is_migrating(self) -> bool:
        """See ``Ledger.is_migrating``."""
        return False

    def busy_s(self) -> float:
        return 0.0

    async def watch(self) -> None:
        await self._closed.wait()

    def standby(self) -> Standby:
        return _MemoryStandby(self)

    def take_back_starts(self, keys: Sequence[str]) -> None:
        """See ``Standby.take_back_starts``."""
        for key in keys:
            if (found := self._ours(key)) is not None and found.started:
                found.started = False
                found.starts -= 1

    def _ours(self, key: str) -> _Key | None:
        found = self.store.open_keys.get(key)
        return found if found is not None and found.holder is self else None

    def _counts(self, key: str) -> _Key:
        return self.store.open_keys.get(key) or _Key()

    def _let_go(self, found: _Key) -> None:
        if found.started:
            found.started = False
            found.starts -= 1
        found.holder = None
        found.stored_at = time.time()

    def _close(self, record: JobRecord, *, dead: bool) -> bool:
        key, store = record.key, self.store
        if (job := store.ended.get(key)) is not None:
            return job.dead is dead and store.ended_by.get(key) is self
        if self._ours(key) is None:
            return False
        del store.open_keys[key]
        store.ended[key] = StoredJob(record, dead, time.time())
        store.ended_by[key] = self
        return True

    def _demand(self, name: str, *keys: str, is_open: bool = False) -> None:
        if not (self._is_open or is_open):
            raise StoreError("the store is not open")
        if self.store.down is not None:
            raise self.store.down
        if any(fit(key) is not key for key in keys):
            raise StoreError("a key that no database takes")
        self.store.writes.append(name)

    async def _answer(self, name: str, *, is_open: bool = False) -> None:
        self._demand(name, is_open=is_open)
        await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self.store.answer_s)


class _MemoryStandby:
    """See ``Standby``."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        return await self._ledger.renew(keys, lease_s)

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        self._ledger.take_back_starts(keys)

    async def close(self) -> None:
        pass


class MemoryOperators:
    """The operators' side of the same store, as far as tests of the daemon's side use it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def close(self) -> None:
        pass

    async def list_letters(
        self, wanted: Filter, *, limit: int, after: int | None = None, latest_first: bool = False
    ) -> Sequence[StoredLetter]:
        assert wanted == Filter(ids=wanted.ids, queue=wanted.queue), "no test in memory asks for more"
        found = [
            one
            for one in self._store.letters.values()
            if (not wanted.ids or one.id in wanted.ids) and wanted.queue in {None, one.letter.job.queue}
        ]
        if latest_first:
            return [one for one in reversed(found) if after is None or one.id < after][:limit]
        return [one for one in found if after is None or one.id > after][:limit]

    async def count_letters(self, wanted: Filter, *, cap: int = COUNT_CAP) -> int:
        return len(await self.list_letters(wanted, limit=cap + 1))

    async def get_letter(self, letter_id: int) -> StoredLetter:
        if (found := self._store.letters.get(letter_id)) is None:
            raise unknown_letter(letter_id)
        return found

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        del seen, force
        before, now = await self.get_letter(letter_id), time.time()
        ended = self._store.ended.pop(before.letter.job.key, None)
        self._store.letters[letter_id] = replace(before, state=LetterState.REPLAYING, replayed_at=now)
        return Begun(before, now, ended)

    async def finish_replay(self, letter_id: int) -> None:
        found = await self.get_letter(letter_id)
        self._store.letters[letter_id] = replace(found, state=LetterState.REPLAYED)

    async def cancel_replay(self, begun: Begun) -> None:
        self._store.letters[begun.before.id] = begun.before
        if begun.ended is not None:
            self._store.ended[begun.ended.record.key] = begun.ended

    async def list_runs(self, *keys: str) -> Sequence[RunRecord]:
        return [run for _, run in self._store.runs.values() if run.key in keys]

    async def purge(self, wanted: Filter) -> int:
        found = await self.list_letters(wanted, limit=_MOST)
        for one in found:
            del self._store.letters[one.id]
        return len(found)

    async def list_jobs(
        self, wanted: Filter, *, limit: int, dead: bool | None = None, after: str | None = None
    ) -> Sequence[StoredJob]:
        assert (wanted, after) == (Filter(), None), "no test in memory asks for more"
        return [one for one in reversed(self._store.ended.values()) if dead in {None, one.dead}][:limit]


def _demand_finite(lease_s: float) -> None:
    if not math.isfinite(lease_s) or lease_s <= 0:
        raise ValueError(f"lease_s is {lease_s}, expected a finite number of seconds above 0")


def _demand_storable(record: JobRecord) -> None:
    values = [getattr(record, one.name) for one in fields(record)]
    if any(isinstance(value, int) and abs(value) > _MOST for value in values):
        raise StoreError("a number that no database takes")
