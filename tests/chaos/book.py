"""Compare what was sent, what the handlers noted, what was killed and what the store holds: the verdict of a run.

Pure: everything comes in as values, so each rule is tried on made-up runs in ``test_chaos_book.py``.

A handler may run again for a job only
    after it failed, where it was told to fail,
    after its daemon was killed, or stopped before it had ended, with the job's end not written down by then,
    after its daemon said that the lease was lost,
    in another daemon, after its own was frozen in the middle of it for longer than a lease.

Clock steps, moved files, jobs that MPS fails for, a pooler and a blocked event loop explain no repeat by themselves:
what they lead to must be one of the reasons above, and nothing may get lost by any of them.

Elsewhere: where the values come from (``drop_in``, ``daemons``, ``stored``, ``traffic``), making it happen
(``driver``).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from consumer.policy import CRASH_STARTS, Reason
from tests.chaos.daemons import LEASE_STEP_S
from tests.chaos.stored import Ended, Stored
from tests.chaos.traffic import ACTS, DONE, Watch

OF_THE_MESSAGE: Final = frozenset(
    {"undecodable", "unrouted", "ill_typed", "result_not_ready", "not_iproduction", "contradicted", "unanswered"}
)
"""Reasons that end one message, and leave its job to another one."""
FAIL_AS_TOLD: Final = frozenset({"fails_once", "fails_late", "asks_again", "hopeless", "rejects"})
_MOST_TOLD: Final = 40
_WAKING_S: Final = 1.0
"""So long a daemon that goes on needs to see what it has lost."""
_WRITING_S: Final = 1.0
"""So long after a handler's end may its end be under way to the store."""


@dataclass(slots=True)
class Run:
    """One run of a handler.

    Args:
        job: For which job.
        pid: In which process.
        began_at: UNIX seconds.
        word: How it ended: ``end``, ``raise``, ``cut``; empty when it never did.
        ended_at: UNIX seconds.
    """

    job: str
    pid: int
    began_at: float
    word: str = ""
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one daemon.

    Args:
        at: When it was signalled, UNIX seconds.
        ended: The jobs whose end was written down when the process had gone.
        killed: Whether by SIGKILL.
        storeless: Whether its store was down meanwhile, so that it may have been unable to write down what it gave
            back: then it looks like a kill to those who come after it.
        born: When it was started, UNIX seconds.
    """

    at: float
    ended: frozenset[str]
    killed: bool = field(kw_only=True)
    storeless: bool = field(default=False, kw_only=True)
    born: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Frozen:
    """One daemon did nothing for a while, and lived on.

    Args:
        pid: Its process.
        since: When it was stopped, UNIX seconds.
        until: When it went on.
    """

    pid: int
    since: float
    until: float

    @property
    def outlasts_leases(self) -> bool:
        """Whether others could take over what it had."""
        return self.until - self.since >= LEASE_STEP_S


class Why(StrEnum):
    """Why a handler ran again."""

    TOLD = "it failed as told"
    KILLED = "its daemon was killed"
    STOPPED = "its daemon was stopped"
    LEASE_LOST = "its lease was lost"
    FROZEN = "its daemon was frozen"
    NONE = "unexplained"


@dataclass(slots=True)
class Verdict:
    """What a run comes to.

    Args:
        runs: Runs of handlers.
        again: Repeats by their reason.
        wrong: What must not be, one sentence each.
    """

    runs: int = 0
    again: Counter[Why] = field(default_factory=Counter)
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def told_wrong(self) -> list[str]:
        """What is wrong, as lines to print: where there is very much, the first of it tells enough."""
        more = len(self.wrong) - _MOST_TOLD
        return [f"WRONG: {line}" for line in self.wrong[:_MOST_TOLD]] + ([f"WRONG: {more} more"] if more > 0 else [])


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict is found from.

    Args:
        watch: What was sent, came and was deleted.
        runs: What the handlers noted.
        deaths: The daemons that were ended, by process id.
        leases_lost: How often each daemon said that it lost the lease of each job.
        stored: What the store holds at the end.
        frozen: The times for which daemons were frozen.
    """

    watch: Watch
    runs: Sequence[Run]
    deaths: Mapping[int, Death]
    leases_lost: Mapping[tuple[int, str], int]
    stored: Stored
    frozen: Sequence[Frozen] = ()


def read_journal(lines: Iterable[str]) -> list[Run]:
    """Turn the journal's lines into runs, in the order in which they began."""
    runs: list[Run] = []
    open_runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for line in lines:
        at, pid, word, job = line.split()
        if word == "begin":
            run = Run(job, int(pid), float(at))
            runs.append(run)
            open_runs[job, run.pid].append(run)
        else:
            # A plain function runs on when its lease is lost: the oldest one ends first.
            run = open_runs[job, int(pid)].pop(0)
            run.word, run.ended_at = word, float(at)
    return sorted(runs, key=lambda run: run.began_at)


def find(evidence: Evidence) -> Verdict:
    """Find what is wrong, and why handlers ran again."""
    verdict = Verdict(runs=len(evidence.runs))
    by_job: dict[str, list[Run]] = defaultdict(list)
    for run in evidence.runs:
        by_job[run.job].append(run)
    _repeats(evidence, by_job, verdict)
    _ends(evidence, by_job, verdict)
    _letters(evidence, verdict)
    _deletes(evidence, by_job, verdict)
    return verdict


def _repeats(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    lost = Counter(evidence.leases_lost)
    for job, runs in by_job.items():
        for run, again in itertools.pairwise(runs):
            why = _why(run, again, evidence, lost)
            verdict.again[why] += 1
            if why is Why.NONE:
                verdict.wrong.append(f"{_told(evidence, job)} ran again without a reason: {run}, then {again}")
        ended = evidence.stored.ended.get(job)
        verdict.wrong += [
            f"{_told(evidence, job)} began after its end was written down at {ended.at:.3f}: {run}"
            for run in runs
            if ended is not None and run.began_at > ended.at and not _thawed_at(run, ended.at, evidence)
        ]


def _why(run: Run, again: Run, evidence: Evidence, lost: Counter[tuple[int, str]]) -> Why:
    if run.word == "raise" and evidence.watch.asked.get(run.job) in FAIL_AS_TOLD:
        return Why.TOLD
    if lost[run.pid, run.job] > 0:
        lost[run.pid, run.job] -= 1
        return Why.LEASE_LOST
    if again.pid != run.pid and _was_frozen_in(run, again, evidence):
        return Why.FROZEN
    if again.pid != run.pid and _thawed_at(again, run.began_at, evidence):
        return Why.FROZEN
    death = evidence.deaths.get(run.pid)
    if death is None or again.began_at < death.at or run.job in death.ended:
        return Why.NONE
    return Why.KILLED if death.killed else Why.STOPPED


def _was_frozen_in(run: Run, again: Run, evidence: Evidence) -> bool:
    """Whether a run's daemon was frozen in it, before its end was written down, and the other one began meanwhile."""
    return any(
        frozen.pid == run.pid
        and frozen.outlasts_leases
        and run.began_at <= frozen.since
        and (run.ended_at is None or run.ended_at >= frozen.since - _WRITING_S)
        and frozen.since < again.began_at <= frozen.until + _WAKING_S
        for frozen in evidence.frozen
    )


def _thawed_at(run: Run, taken_over_at: float, evidence: Evidence) -> bool:
    """Whether a daemon was frozen between its claim and the handler: it began on going on, another one meanwhile."""
    return any(
        frozen.pid == run.pid
        and frozen.outlasts_leases
        and frozen.since <= taken_over_at <= frozen.until + _WAKING_S
        and frozen.until <= run.began_at <= frozen.until + _WAKING_S
        for frozen in evidence.frozen
    )


def _ends(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    """Every job of which a message came ended as it had to; of the others nothing is known."""
    came, ended = evidence.watch.jobs, evidence.stored.ended
    reasons = {letter.job: letter.reason for letter in evidence.stored.letters}
    for job in came:
        runs = by_job.get(job, [])
        told = _told(evidence, job)
        wanted = ACTS[evidence.watch.asked[job]].end
        if job not in ended:
            verdict.lost += 1
            verdict.wrong.append(f"{told} was lost: it came into the queue and has no end; its runs: {runs}")
        elif ended[job].dead:
            if reasons.get(job) != wanted and not _crashed(job, runs, evidence, reasons):
                verdict.wrong.append(f"{told} became a dead letter for {reasons.get(job)}, expected {wanted}")
        elif wanted != DONE:
            verdict.wrong.append(f"{told} was done, expected a dead letter for {wanted}")
        elif not any(run.word == "end" for run in runs):
            verdict.wrong.append(f"{told} was done though no handler came to its end: {runs}")
    verdict.wrong += [f"{job} has an end and never came" for job in ended if job not in came]
    verdict.wrong += [f"{job} was handled and never came" for job in by_job if job not in came]


def _crashed(job: str, runs: Sequence[Run], evidence: Evidence, reasons: Mapping[str, str]) -> bool:
    """Whether it was set aside for taking its daemons down, and so many ended under it that it had to look so."""
    without_a_word = {pid for pid, death in evidence.deaths.items() if death.killed or death.storeless}
    without_a_word |= {frozen.pid for frozen in evidence.frozen}
    # A start is written down before the handler begins, and a kill may come between the two.
    cut = sum(1 for run in runs if run.pid in without_a_word)
    begun = {run.pid for run in runs}
    cut += sum(1 for pid in without_a_word - begun if _had_in_hands(job, pid, evidence))
    # The first delivery's start is not written down, and the last one may have come too late for the rule above.
    return reasons.get(job) == Reason.CRASHING and cut >= CRASH_STARTS - 1


def _had_in_hands(job: str, pid: int, evidence: Evidence) -> bool:
    """Whether a daemon that ended without a word had been handed a job: it was the only one alive at the time."""

    def alive(at: float) -> list[int]:
        return [one for one, death in evidence.deaths.items() if death.born <= at <= death.at]

    return any(alive(at) == [pid] for at in evidence.watch.received.get(job, []))


def _letters(evidence: Evidence, verdict: Verdict) -> None:
    letters, came = evidence.stored.letters, evidence.watch.came
    # What is wrong with a message alone ends no job: each message of that job may have a letter of its own.
    ends = Counter((letter.job, letter.message_id if letter.reason in OF_THE_MESSAGE else "") for letter in letters)
    doubled = [job for (job, _), count in ends.items() if count > 1]
    verdict.wrong += [f"{_told(evidence, job)} has more than one dead letter" for job in doubled]
    dead = {job for job, ended in evidence.stored.ended.items() if ended.dead}
    verdict.wrong += [f"{job} ended dead without a letter" for job in dead - {letter.job for letter in letters}]
    verdict.wrong += [
        f"the dead letter of {_told(evidence, letter.job)} holds another body than was sent"
        for letter in letters
        if letter.message_id not in came or came[letter.message_id].body.encode() != letter.body
    ]


def _deletes(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    """Nothing was deleted before its job's end was written down, nor before a handler had come to its end."""
    letters = {letter.message_id: Ended(dead=True, at=letter.at) for letter in evidence.stored.letters}
    for at, message_id in evidence.watch.deleted:
        job = evidence.watch.came[message_id].job
        # A message that was set aside ended with its own letter; another message of its job may have ended later.
        ended = letters.get(message_id) or evidence.stored.ended.get(job)
        if ended is None or ended.at > at:
            verdict.wrong.append(
                f"{_told(evidence, job)}: deleted at {at:.3f}, before its end was written down: {ended}"
            )
        elif not ended.dead and not any(
            run.word == "end" and (run.ended_at or at) <= at for run in by_job.get(job, [])
        ):
            verdict.wrong.append(f"{_told(evidence, job)}: deleted at {at:.3f}, before it was handled")


def _told(evidence: Evidence, job: str) -> str:
    return f"{evidence.watch.asked.get(job, 'something unknown')} {job}"
