"""The verdict of a run: what was sent, what the handlers wrote, which daemons died, and what the store holds.

It is a pure function of the ``Evidence``; ``test_verdict.py`` has an invented run for each rule.

A handler may run again for a job only
    after it failed, where it had to fail,
    after its daemon was killed, or stopped during the run, and the job's end was not stored by then,
    after its daemon logged that the lease was lost,
    in another daemon, after its own was frozen during the run for longer than a lease,
    after a failover to a standby that may lack its claim or its end.

Clock steps, moved files, jobs that MPS fails for, a pooler and a blocked event loop explain no repeat by themselves:
it needs one of the causes above. No job may get lost by any of them. Only the end of a job whose message was deleted in
the last second before a failover may be missing: the message was deleted after the primary had confirmed the end.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from consumer.policy import CRASH_STARTS, Reason
from tests.chaos.daemons import LEASE_STEP_S
from tests.chaos.stores import Ended, Failover, Stored
from tests.chaos.traffic import ACTS, DONE, Watch

OF_THE_MESSAGE: Final = frozenset(
    {"undecodable", "unrouted", "ill_typed", "result_not_ready", "not_iproduction", "contradicted", "unanswered"}
)
"""Reasons that end one message; another message may still end its job."""
FAIL_AS_PLANNED: Final = frozenset({"fails_once", "fails_late", "asks_again", "hopeless", "rejects"})
_MOST_LINES: Final = 40
_WAKING_S: Final = 1.0
"""The most that a resumed daemon needs to notice what it lost."""
_WRITING_S: Final = 1.0
"""The most time between a handler's end and its end in the store."""
_DELETING_S: Final = 10.0
"""The most time between a job's end in the store and the delete of its message, whose tries may fail."""


@dataclass(slots=True)
class Run:
    """One run of a handler; times are UNIX seconds.

    Args:
        job: The job's id.
        pid: The daemon's process.
        began_at: Its begin.
        ending: ``end``, ``raise`` or ``cut``; empty if it never ended.
        ended_at: Its end.
    """

    job: str
    pid: int
    began_at: float
    ending: str = ""
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one daemon; times are UNIX seconds.

    Args:
        at: When it got the signal.
        ended: The jobs whose end was stored when the process was gone.
        killed: Whether by SIGKILL.
        storeless: Whether its store was down during the stop. Then it could not store which jobs it released, and to
            other daemons it looks killed.
        started_at: Its start.
    """

    at: float
    ended: frozenset[str]
    killed: bool = field(kw_only=True)
    storeless: bool = field(default=False, kw_only=True)
    started_at: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Freeze:
    """The time for which one daemon was stopped by SIGSTOP, UNIX seconds."""

    pid: int
    since: float
    until: float

    @property
    def outlasts_leases(self) -> bool:
        """Whether other daemons could take over its jobs."""
        return self.until - self.since >= LEASE_STEP_S


class Cause(StrEnum):
    """Why a handler ran again."""

    PLANNED = "it failed as planned"
    KILLED = "its daemon was killed"
    STOPPED = "its daemon was stopped"
    LEASE_LOST = "its lease was lost"
    FROZEN = "its daemon was frozen"
    FAILOVER = "the store failed over"
    NONE = "unexplained"


@dataclass(slots=True)
class Verdict:
    """The result of a run.

    Args:
        runs: Number of runs of handlers.
        again: Number of repeats by their cause.
        lost: Number of jobs without an end.
        wrong: Every violation of a rule, one sentence each.
    """

    runs: int = 0
    again: Counter[Cause] = field(default_factory=Counter)
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def repeats(self) -> str:
        """The number of repeats, in total and by their cause, as text."""
        by_cause = ", ".join(f"{self.again[cause]} because {cause}" for cause in Cause if self.again[cause])
        return f"{sum(self.again.values())}: {by_cause or 'none'}"

    def wrong_lines(self) -> list[str]:
        """The violations as lines to print, at most 40 of them."""
        more = len(self.wrong) - _MOST_LINES
        return [f"WRONG: {line}" for line in self.wrong[:_MOST_LINES]] + ([f"WRONG: {more} more"] if more > 0 else [])


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is based on.

    Args:
        watch: What was sent, and what passed through the queue.
        runs: The handlers' journal.
        deaths: The daemons that were ended, by process id.
        leases_lost: How often each daemon lost the lease of each job.
        stored: The content of the store at the end.
        frozen: When daemons were frozen.
        failover: When the store failed over.
    """

    watch: Watch
    runs: Sequence[Run]
    deaths: Mapping[int, Death]
    leases_lost: Mapping[tuple[int, str], int]
    stored: Stored
    frozen: Sequence[Freeze] = ()
    failover: Failover | None = None

    def may_have_lost(self, job: str) -> bool:
        """Whether a job's end may have been lost by a failover after its message was deleted."""
        over = self.failover
        return (
            over is not None
            and any(at <= over.until for at in self.watch.received.get(job, []))
            and any(
                self.watch.arrivals[message].job == job and over.since <= at <= over.until + _DELETING_S
                for at, message in self.watch.deleted
            )
        )


def read_journal(lines: Iterable[str]) -> list[Run]:
    """The runs of a journal, in the order in which they began."""
    runs: list[Run] = []
    open_runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for line in lines:
        at, pid, what, job = line.split()
        if what == "begin":
            run = Run(job, int(pid), float(at))
            runs.append(run)
            open_runs[job, run.pid].append(run)
        else:
            # A plain function continues when its lease is lost: the oldest run ends first.
            run = open_runs[job, int(pid)].pop(0)
            run.ending, run.ended_at = what, float(at)
    return sorted(runs, key=lambda run: run.began_at)


def judge(evidence: Evidence) -> Verdict:
    """Find the violations, and the cause of each repeat."""
    verdict = Verdict(runs=len(evidence.runs))
    by_job: dict[str, list[Run]] = defaultdict(list)
    for run in evidence.runs:
        by_job[run.job].append(run)
    _judge_repeats(evidence, by_job, verdict)
    _judge_ends(evidence, by_job, verdict)
    _judge_letters(evidence, verdict)
    _judge_deletes(evidence, by_job, verdict)
    return verdict


def _judge_repeats(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    lost = Counter(evidence.leases_lost)
    for job, runs in by_job.items():
        for run, again in itertools.pairwise(runs):
            cause = _cause(run, again, evidence, lost)
            verdict.again[cause] += 1
            if cause is Cause.NONE:
                verdict.wrong.append(f"{_named(evidence, job)} ran again without a cause: {run}, then {again}")
        ended = evidence.stored.ended.get(job)
        verdict.wrong += [
            f"{_named(evidence, job)} began after its end was stored at {ended.at:.3f}: {run}"
            for run in runs
            if ended is not None and run.began_at > ended.at and not _resumed_at(run, ended.at, evidence)
        ]


def _cause(run: Run, again: Run, evidence: Evidence, lost: Counter[tuple[int, str]]) -> Cause:
    if run.ending == "raise" and evidence.watch.acts.get(run.job) in FAIL_AS_PLANNED:
        return Cause.PLANNED
    if lost[run.pid, run.job] > 0:
        lost[run.pid, run.job] -= 1
        return Cause.LEASE_LOST
    if again.pid != run.pid and _was_frozen_in(run, again, evidence):
        return Cause.FROZEN
    if again.pid != run.pid and _resumed_at(again, run.began_at, evidence):
        return Cause.FROZEN
    over = evidence.failover
    if over is not None and run.began_at <= over.until <= again.began_at and _writing_until(run) >= over.since:
        return Cause.FAILOVER
    death = evidence.deaths.get(run.pid)
    if death is None or again.began_at < death.at or run.job in death.ended:
        return Cause.NONE
    return Cause.KILLED if death.killed else Cause.STOPPED


def _writing_until(run: Run) -> float:
    """The latest time at which the run's end was stored."""
    return math.inf if run.ended_at is None else run.ended_at + _WRITING_S


def _was_frozen_in(run: Run, again: Run, evidence: Evidence) -> bool:
    """Whether the run's daemon was frozen before the run's end was stored, and the second run began meanwhile."""
    return any(
        frozen.pid == run.pid
        and frozen.outlasts_leases
        and run.began_at <= frozen.since
        and (run.ended_at is None or run.ended_at >= frozen.since - _WRITING_S)
        and frozen.since < again.began_at <= frozen.until + _WAKING_S
        for frozen in evidence.frozen
    )


def _resumed_at(run: Run, taken_over_at: float, evidence: Evidence) -> bool:
    """Whether a daemon was frozen between claim and handler, and the handler began when the daemon was resumed.

    Args:
        run: The run that began then.
        taken_over_at: When another daemon took the job over, during the freeze.
        evidence: Has the freezes.
    """
    return any(
        frozen.pid == run.pid
        and frozen.outlasts_leases
        and frozen.since <= taken_over_at <= frozen.until + _WAKING_S
        and frozen.until <= run.began_at <= frozen.until + _WAKING_S
        for frozen in evidence.frozen
    )


def _judge_ends(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    """Every job with a message in the queue ended as it had to."""
    arrived, ended = evidence.watch.jobs, evidence.stored.ended
    reasons = {letter.job: letter.reason for letter in evidence.stored.letters}
    for job in arrived:
        runs = by_job.get(job, [])
        name = _named(evidence, job)
        wanted = ACTS[evidence.watch.acts[job]].end
        if job not in ended:
            if evidence.may_have_lost(job):
                continue
            verdict.lost += 1
            verdict.wrong.append(f"{name} was lost: it was in the queue and has no end; its runs: {runs}")
        elif ended[job].dead:
            if reasons.get(job) != wanted and not _crashed(job, runs, evidence, reasons):
                verdict.wrong.append(f"{name} became a dead letter for {reasons.get(job)}, expected {wanted}")
        elif wanted != DONE:
            verdict.wrong.append(f"{name} was done, expected a dead letter for {wanted}")
        elif not any(run.ending == "end" for run in runs):
            verdict.wrong.append(f"{name} was done though no handler ended well: {runs}")
    verdict.wrong += [f"{job} has an end and was never in the queue" for job in ended if job not in arrived]
    verdict.wrong += [f"{job} was handled and was never in the queue" for job in by_job if job not in arrived]


def _crashed(job: str, runs: Sequence[Run], evidence: Evidence, reasons: Mapping[str, str]) -> bool:
    """Whether a job is a dead letter as ``crashing``, and enough daemons died while they had it."""
    died = {pid for pid, death in evidence.deaths.items() if death.killed or death.storeless}
    died |= {frozen.pid for frozen in evidence.frozen}
    # A start is stored before the handler begins, and a kill may come between the two.
    cut = sum(1 for run in runs if run.pid in died)
    begun = {run.pid for run in runs}
    cut += sum(1 for pid in died - begun if _had_received(job, pid, evidence))
    # The first delivery's start is not stored, and the last one may have been too late for the rule above.
    return reasons.get(job) == Reason.CRASHING and cut >= CRASH_STARTS - 1


def _had_received(job: str, pid: int, evidence: Evidence) -> bool:
    """Whether a daemon received a job: it was the only one alive at that time."""

    def alive(at: float) -> list[int]:
        return [one for one, death in evidence.deaths.items() if death.started_at <= at <= death.at]

    return any(alive(at) == [pid] for at in evidence.watch.received.get(job, []))


def _judge_letters(evidence: Evidence, verdict: Verdict) -> None:
    letters, arrivals = evidence.stored.letters, evidence.watch.arrivals
    # A reason of the message ends no job: each message of that job may have a dead letter.
    ends = Counter((letter.job, letter.message_id if letter.reason in OF_THE_MESSAGE else "") for letter in letters)
    doubled = [job for (job, _), count in ends.items() if count > 1]
    verdict.wrong += [f"{_named(evidence, job)} has more than one dead letter" for job in doubled]
    dead = {job for job, ended in evidence.stored.ended.items() if ended.dead}
    verdict.wrong += [f"{job} ended dead without a letter" for job in dead - {letter.job for letter in letters}]
    verdict.wrong += [
        f"the dead letter of {_named(evidence, letter.job)} has another body than was sent"
        for letter in letters
        if letter.message_id not in arrivals or arrivals[letter.message_id].body.encode() != letter.body
    ]


def _judge_deletes(evidence: Evidence, by_job: Mapping[str, Sequence[Run]], verdict: Verdict) -> None:
    """No message was deleted before its job's end was stored, or before a handler had ended well."""
    letters = {letter.message_id: Ended(dead=True, at=letter.at) for letter in evidence.stored.letters}
    for at, message_id in evidence.watch.deleted:
        job = evidence.watch.arrivals[message_id].job
        # A message with a dead letter ended with that; its job may have ended later by another message.
        ended = letters.get(message_id) or evidence.stored.ended.get(job)
        if (ended is None or ended.at > at) and not evidence.may_have_lost(job):
            verdict.wrong.append(f"{_named(evidence, job)}: deleted at {at:.3f}, before its end was stored: {ended}")
        elif (
            ended is not None
            and not ended.dead
            and not any(run.ending == "end" and (run.ended_at or at) <= at for run in by_job.get(job, []))
        ):
            verdict.wrong.append(f"{_named(evidence, job)}: deleted at {at:.3f}, before it was handled")


def _named(evidence: Evidence, job: str) -> str:
    return f"{evidence.watch.acts.get(job, 'something unknown')} {job}"
