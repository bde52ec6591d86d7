"""The verdict of a chaos run finds each violation: an invented run for each rule, which violates only that rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from consumer.policy import Reason
from tests.chaos.stores import Ended, Failover, Letter, Stored
from tests.chaos.traffic import Arrival, Watch
from tests.chaos.verdict import Cause, Death, Evidence, Freeze, Run, judge, read_journal

HERE, THERE = 100, 200
"""Two daemons."""


@dataclass
class Story:
    """An invented run; by default one job that was handled once and then deleted."""

    act: str = "quick"
    runs: list[Run] = field(default_factory=lambda: [Run("j", HERE, 10.0, "end", 11.0)])
    deaths: dict[int, Death] = field(default_factory=dict)
    leases_lost: dict[tuple[int, str], int] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=lambda: {"j": Ended(dead=False, at=11.5)})
    letters: list[Letter] = field(default_factory=list)
    deleted: list[tuple[float, str]] = field(default_factory=lambda: [(12.0, "m")])
    frozen: list[Freeze] = field(default_factory=list)
    failover: Failover | None = None

    def evidence(self) -> Evidence:
        """The evidence of the story."""
        watch = Watch({"j": self.act}, {"m": Arrival("j", "body")}, self.deleted)
        stored = Stored(self.ended, self.letters)
        return Evidence(watch, self.runs, self.deaths, self.leases_lost, stored, self.frozen, self.failover)


def twice(ending: str, **more: object) -> Story:
    """The job's handler ran in one daemon, ended like this, and ran again in the other daemon."""
    runs = [Run("j", HERE, 5.0, ending, 6.0 if ending else None), Run("j", THERE, 10.0, "end", 11.0)]
    return dataclasses.replace(Story(runs=runs), **more)  # type: ignore[arg-type]  # a test names fields freely


def dead(reason: str, body: bytes = b"body", **more: object) -> Story:
    """The job became a dead letter without a run."""
    story = Story(runs=[], ended={"j": Ended(dead=True, at=11.5)}, letters=[Letter("j", "m", reason, body, 11.5)])
    return dataclasses.replace(story, **more)  # type: ignore[arg-type]  # a test names fields freely


def meanwhile(*, frozen_s: float = 20.0) -> Story:
    """The job's daemon was frozen while its handler ran, and the handler ran in the other daemon meanwhile."""
    runs = [Run("j", HERE, 1.0, "end", 3.0 + frozen_s), Run("j", THERE, 10.0, "end", 11.0)]
    return Story(runs=runs, frozen=[Freeze(HERE, 2.0, 2.0 + frozen_s)])


GONE = frozenset({"j"})
NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("story", "cause"),
    [
        pytest.param(twice("raise", act="fails_once"), Cause.PLANNED, id="it failed as planned"),
        pytest.param(
            twice("", deaths={HERE: Death(6.0, NOTHING, killed=True)}), Cause.KILLED, id="killed during a run"
        ),
        pytest.param(
            twice("end", deaths={HERE: Death(6.1, NOTHING, killed=True)}), Cause.KILLED, id="killed before its end"
        ),
        pytest.param(twice("cut", deaths={HERE: Death(5.5, NOTHING, killed=False)}), Cause.STOPPED, id="cut by a stop"),
        pytest.param(twice("cut", leases_lost={(HERE, "j"): 1}), Cause.LEASE_LOST, id="its lease was lost"),
        pytest.param(meanwhile(), Cause.FROZEN, id="frozen during a run"),
        pytest.param(twice("end", failover=Failover(5.5, 8.0)), Cause.FAILOVER, id="its claim or its end was lost"),
        pytest.param(
            twice("end", frozen=[Freeze(THERE, -5.0, 9.9)]), Cause.FROZEN, id="frozen between its claim and its handler"
        ),
    ],
)
def test_a_repeat_with_a_cause_is_right(story: Story, cause: Cause) -> None:
    """Each cause of a second run is recognised, and nothing is wrong."""
    verdict = judge(story.evidence())
    assert verdict.wrong == []
    assert verdict.again == {cause: 1}


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(twice("end"), id="it had ended well"),
        pytest.param(twice("raise"), id="it failed, which was not planned"),
        pytest.param(twice("cut"), id="cut without a stop"),
        pytest.param(twice("", deaths={THERE: Death(6.0, NOTHING, killed=True)}), id="another daemon was killed"),
        pytest.param(twice("", deaths={HERE: Death(10.5, NOTHING, killed=True)}), id="again before the kill"),
        pytest.param(twice("end", deaths={HERE: Death(6.1, GONE, killed=True)}), id="its end was stored at the kill"),
        pytest.param(twice("cut", leases_lost={(THERE, "j"): 1}), id="another daemon lost the lease"),
        pytest.param(meanwhile(frozen_s=8.5), id="frozen for less than a lease"),
        pytest.param(twice("end", frozen=[Freeze(HERE, 20.0, 40.0)]), id="frozen after both"),
        pytest.param(twice("end", frozen=[Freeze(THERE, 7.0, 19.0)]), id="it ran while its daemon was frozen"),
        pytest.param(twice("end", frozen=[Freeze(THERE, -5.0, 5.5)]), id="it began long after its daemon was resumed"),
        pytest.param(twice("end", frozen=[Freeze(HERE, 7.5, 19.0)]), id="frozen after it had ended"),
        pytest.param(twice("end", failover=Failover(7.5, 8.0)), id="the standby had its end"),
        pytest.param(twice("end", failover=Failover(9.5, 10.5)), id="again before the failover"),
    ],
)
def test_a_repeat_without_a_cause_is_wrong(story: Story) -> None:
    """A second run that nothing explains is found."""
    verdict = judge(story.evidence())
    assert verdict.again == {Cause.NONE: 1}
    assert len(verdict.wrong) == 1
    assert "ran again without a cause" in verdict.wrong[0]


def test_one_lost_lease_explains_one_repeat() -> None:
    """The second of two repeats is not explained by a lease that was lost once."""
    runs = [Run("j", HERE, at, "cut", at + 1) for at in (1.0, 3.0)] + [Run("j", HERE, 10.0, "end", 11.0)]
    verdict = judge(Story(runs=runs, leases_lost={(HERE, "j"): 1}).evidence())
    assert verdict.again == {Cause.LEASE_LOST: 1, Cause.NONE: 1}


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        pytest.param(Story(runs=[], ended={}, deleted=[]), "was lost", id="neither handled nor a dead letter"),
        pytest.param(Story(runs=[]), "no handler ended well", id="done without a run"),
        pytest.param(Story(deleted=[(11.2, "m")]), "before its end was stored", id="deleted before its end"),
        pytest.param(
            Story(runs=[Run("j", HERE, 10.0, "end", 12.5)]), "before it was handled", id="deleted before its run's end"
        ),
        pytest.param(Story(runs=[Run("j", HERE, 11.7, "end", 11.8)]), "began after its end", id="run after its end"),
        pytest.param(Story(act="rejects"), "expected a dead letter for rejected", id="done instead of dead"),
        pytest.param(dead("rejected"), "expected done", id="dead instead of done"),
        pytest.param(dead("rejected", act="undecodable"), "expected undecodable", id="dead for another reason"),
        pytest.param(dead("undecodable", b"bodY", act="undecodable"), "another body", id="a letter's body changed"),
        pytest.param(
            dead("undecodable", act="undecodable", letters=[]), "without a letter", id="dead without a letter"
        ),
        pytest.param(dead("crashing"), "crashing, expected done", id="crashing though nothing was killed"),
        pytest.param(
            Story(ended={"j": Ended(dead=False, at=11.5), "k": Ended(dead=False, at=11.5)}),
            "k has an end and was never in the queue",
            id="an end without a message",
        ),
        pytest.param(
            Story(runs=[Run("j", HERE, 10.0, "end", 11.0), Run("k", HERE, 10.0, "end", 11.0)]),
            "k was handled and was never in the queue",
            id="a run without a message",
        ),
    ],
)
def test_each_violation_is_found(story: Story, expected: str) -> None:
    """Each rule about ends, dead letters and deletes is violated by one story."""
    wrong = judge(story.evidence()).wrong
    assert [line for line in wrong if expected in line], wrong


def test_a_second_letter_is_wrong() -> None:
    """A job with two dead letters is found."""
    letter = Letter("j", "m", "undecodable", b"body", 11.5)
    wrong = judge(dead("undecodable", act="undecodable", letters=[letter, letter]).evidence()).wrong
    assert len(wrong) == 1
    assert "more than one dead letter" in wrong[0]


@pytest.mark.parametrize(
    "make",
    [pytest.param(Story, id="handled"), pytest.param(lambda: dead("undecodable", act="undecodable"), id="set aside")],
)
def test_a_good_story_is_not_wrong(make: Callable[[], Story]) -> None:
    """A run that violates no rule has no finding."""
    verdict = judge(make().evidence())
    assert verdict.wrong == []
    assert verdict.lost == 0


@pytest.mark.parametrize(
    ("failover", "received_at", "allowed"),
    [
        pytest.param(Failover(11.5, 12.5), 9.0, True, id="deleted in the last second"),
        pytest.param(Failover(12.5, 13.5), 9.0, False, id="deleted before it"),
        pytest.param(Failover(7.5, 8.5), 9.0, False, id="received after it"),
    ],
)
def test_a_failover_may_lose_the_end_of_a_job_whose_message_was_deleted(
    failover: Failover, received_at: float, *, allowed: bool
) -> None:
    """A missing end is right only where its message was deleted in the last second before a failover."""
    evidence = Story(ended={}, failover=failover).evidence()
    evidence.watch.received["j"] = [received_at]
    assert (judge(evidence).wrong == []) is allowed


@pytest.mark.parametrize(
    ("death", "allowed"),
    [
        pytest.param({"killed": True}, True, id="killed"),
        pytest.param({"killed": False, "storeless": True}, True, id="stopped without a store"),
        pytest.param({"killed": False}, False, id="stopped in order"),
    ],
)
def test_a_job_whose_daemons_died_often_may_count_as_crashing(death: dict[str, bool], *, allowed: bool) -> None:
    """A job whose daemons died several times, and could not store its release, may become a ``crashing`` letter."""
    runs = [Run("j", pid, float(pid), "" if death["killed"] else "cut") for pid in range(1, 6)]
    deaths = {pid: Death(pid + 0.5, NOTHING, **death) for pid in range(1, 6)}
    verdict = judge(dead(Reason.CRASHING, runs=runs, deaths=deaths).evidence())
    assert (verdict.wrong == []) is allowed
    assert verdict.again == {Cause.KILLED if death["killed"] else Cause.STOPPED: 4}


@pytest.mark.parametrize(("received", "allowed"), [(True, True), (False, False)])
def test_a_kill_between_a_start_and_its_handler_counts_too(*, received: bool, allowed: bool) -> None:
    """A daemon that alone could receive the job, and was killed before the handler began, counts for ``crashing``."""
    runs = [Run("j", pid, pid + 0.5) for pid in range(1, 4)]
    deaths = {pid: Death(pid + 0.9, NOTHING, killed=True, started_at=float(pid)) for pid in range(1, 5)}
    evidence = dead(Reason.CRASHING, runs=runs, deaths=deaths).evidence()
    evidence.watch.received["j"] = [4.5 if received else 4.95]
    assert (judge(evidence).wrong == []) is allowed


def test_the_journal_pairs_begins_with_ends() -> None:
    """Lines of two processes, and of two runs of one job, become the right runs."""
    lines = ["1.0 7 begin a", "1.5 8 begin a", "2.0 7 begin b", "2.5 8 end a", "3.0 7 begin a", "4.0 7 end a"]
    assert read_journal(lines) == [
        Run("a", 7, 1.0, "end", 4.0),
        Run("a", 8, 1.5, "end", 2.5),
        Run("b", 7, 2.0),
        Run("a", 7, 3.0),
    ]
