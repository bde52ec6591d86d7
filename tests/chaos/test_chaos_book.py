"""The book of a chaos run notices what must not be: each rule on a made-up run that breaks it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from consumer.policy import Reason
from tests.chaos.book import Death, Evidence, Frozen, Run, Why, find, read_journal
from tests.chaos.stored import Ended, Letter, Stored
from tests.chaos.traffic import Came, Watch

HERE, THERE = 100, 200
"""Two daemons."""


@dataclass
class Story:
    """A made-up run; as it stands, one job that was handled once and then deleted."""

    act: str = "quick"
    runs: list[Run] = field(default_factory=lambda: [Run("j", HERE, 10.0, "end", 11.0)])
    deaths: dict[int, Death] = field(default_factory=dict)
    leases_lost: dict[tuple[int, str], int] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=lambda: {"j": Ended(dead=False, at=11.5)})
    letters: list[Letter] = field(default_factory=list)
    deleted: list[tuple[float, str]] = field(default_factory=lambda: [(12.0, "m")])
    frozen: list[Frozen] = field(default_factory=list)

    def evidence(self) -> Evidence:
        """The story as the book takes it."""
        watch = Watch({"j": self.act}, {"m": Came("j", "body")}, self.deleted)
        stored = Stored(self.ended, self.letters)
        return Evidence(watch, self.runs, self.deaths, self.leases_lost, stored, self.frozen)


def twice(word: str, **more: object) -> Story:
    """The job's handler ran here, ended so, and ran again there."""
    runs = [Run("j", HERE, 5.0, word, 6.0 if word else None), Run("j", THERE, 10.0, "end", 11.0)]
    return dataclasses.replace(Story(runs=runs), **more)  # type: ignore[arg-type]  # a test names fields freely


def dead(reason: str, body: bytes = b"body", **more: object) -> Story:
    """The job became a dead letter without a run."""
    story = Story(runs=[], ended={"j": Ended(dead=True, at=11.5)}, letters=[Letter("j", "m", reason, body, 11.5)])
    return dataclasses.replace(story, **more)  # type: ignore[arg-type]  # a test names fields freely


def meanwhile(*, frozen_s: float = 20.0) -> Story:
    """The job's handler ran here, its daemon was frozen in it, and it ran there meanwhile."""
    runs = [Run("j", HERE, 1.0, "end", 3.0 + frozen_s), Run("j", THERE, 10.0, "end", 11.0)]
    return Story(runs=runs, frozen=[Frozen(HERE, 2.0, 2.0 + frozen_s)])


GONE = frozenset({"j"})
NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("story", "why"),
    [
        pytest.param(twice("raise", act="fails_once"), Why.TOLD, id="it failed where it was told to"),
        pytest.param(twice("", deaths={HERE: Death(6.0, NOTHING, killed=True)}), Why.KILLED, id="killed amid a run"),
        pytest.param(
            twice("end", deaths={HERE: Death(6.1, NOTHING, killed=True)}), Why.KILLED, id="killed before its end"
        ),
        pytest.param(twice("cut", deaths={HERE: Death(5.5, NOTHING, killed=False)}), Why.STOPPED, id="cut by a stop"),
        pytest.param(twice("cut", leases_lost={(HERE, "j"): 1}), Why.LEASE_LOST, id="its lease was lost"),
        pytest.param(meanwhile(), Why.FROZEN, id="frozen amid a run"),
        pytest.param(
            twice("end", frozen=[Frozen(THERE, -5.0, 9.9)]), Why.FROZEN, id="frozen between its claim and its handler"
        ),
    ],
)
def test_a_repeat_with_a_reason_passes(story: Story, why: Why) -> None:
    """Each reason for a second run is told by its name, and nothing is wrong."""
    verdict = find(story.evidence())
    assert verdict.wrong == []
    assert verdict.again == {why: 1}


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(twice("end"), id="it had ended well"),
        pytest.param(twice("raise"), id="it failed though not told to"),
        pytest.param(twice("cut"), id="cut by nobody"),
        pytest.param(twice("", deaths={THERE: Death(6.0, NOTHING, killed=True)}), id="another daemon was killed"),
        pytest.param(twice("", deaths={HERE: Death(10.5, NOTHING, killed=True)}), id="again before the kill"),
        pytest.param(
            twice("end", deaths={HERE: Death(6.1, GONE, killed=True)}), id="its end was written down at the kill"
        ),
        pytest.param(twice("cut", leases_lost={(THERE, "j"): 1}), id="another daemon lost the lease"),
        pytest.param(meanwhile(frozen_s=8.5), id="frozen for less than a lease"),
        pytest.param(twice("end", frozen=[Frozen(HERE, 20.0, 40.0)]), id="frozen after both"),
        pytest.param(twice("end", frozen=[Frozen(THERE, 7.0, 19.0)]), id="it ran while its daemon was frozen"),
        pytest.param(twice("end", frozen=[Frozen(THERE, -5.0, 5.5)]), id="it began long after its daemon went on"),
        pytest.param(twice("end", frozen=[Frozen(HERE, 7.5, 19.0)]), id="frozen after it had ended"),
    ],
)
def test_a_repeat_without_a_reason_is_wrong(story: Story) -> None:
    """A second run that nothing explains is found."""
    verdict = find(story.evidence())
    assert verdict.again == {Why.NONE: 1}
    assert len(verdict.wrong) == 1
    assert "ran again without a reason" in verdict.wrong[0]


def test_one_lost_lease_explains_one_repeat() -> None:
    """The second of two repeats is not explained by a lease that was lost once."""
    runs = [Run("j", HERE, at, "cut", at + 1) for at in (1.0, 3.0)] + [Run("j", HERE, 10.0, "end", 11.0)]
    verdict = find(Story(runs=runs, leases_lost={(HERE, "j"): 1}).evidence())
    assert verdict.again == {Why.LEASE_LOST: 1, Why.NONE: 1}


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        pytest.param(Story(runs=[], ended={}, deleted=[]), "was lost", id="neither handled nor a dead letter"),
        pytest.param(Story(runs=[]), "no handler came to its end", id="done without a run"),
        pytest.param(Story(deleted=[(11.2, "m")]), "before its end was written down", id="deleted before its end"),
        pytest.param(
            Story(runs=[Run("j", HERE, 10.0, "end", 12.5)]), "before it was handled", id="deleted before its run's end"
        ),
        pytest.param(Story(runs=[Run("j", HERE, 11.7, "end", 11.8)]), "began after its end", id="run after its end"),
        pytest.param(Story(act="rejects"), "expected a dead letter for rejected", id="done where it is to be dead"),
        pytest.param(dead("rejected"), "expected done", id="dead where it is to be done"),
        pytest.param(dead("rejected", act="undecodable"), "expected undecodable", id="dead for another reason"),
        pytest.param(dead("undecodable", b"bodY", act="undecodable"), "another body", id="a letter's body changed"),
        pytest.param(
            dead("undecodable", act="undecodable", letters=[]), "without a letter", id="dead without a letter"
        ),
        pytest.param(dead("crashing"), "crashing, expected done", id="crashing though nothing was killed"),
        pytest.param(
            Story(ended={"j": Ended(dead=False, at=11.5), "k": Ended(dead=False, at=11.5)}),
            "k has an end and never came",
            id="an end of what never came",
        ),
        pytest.param(
            Story(runs=[Run("j", HERE, 10.0, "end", 11.0), Run("k", HERE, 10.0, "end", 11.0)]),
            "k was handled and never came",
            id="a run of what never came",
        ),
    ],
)
def test_what_must_not_be_is_found(story: Story, expected: str) -> None:
    """Each rule about ends, dead letters and deletes is broken by its own story."""
    wrong = find(story.evidence()).wrong
    assert [line for line in wrong if expected in line], wrong


def test_a_second_letter_is_wrong() -> None:
    """A job with two dead letters is found."""
    letter = Letter("j", "m", "undecodable", b"body", 11.5)
    wrong = find(dead("undecodable", act="undecodable", letters=[letter, letter]).evidence()).wrong
    assert len(wrong) == 1
    assert "more than one dead letter" in wrong[0]


@pytest.mark.parametrize(
    "make",
    [pytest.param(Story, id="handled"), pytest.param(lambda: dead("undecodable", act="undecodable"), id="set aside")],
)
def test_a_good_story_is_not_wrong(make: Callable[[], Story]) -> None:
    """What went as it should passes."""
    verdict = find(make().evidence())
    assert verdict.wrong == []
    assert verdict.lost == 0


@pytest.mark.parametrize(
    ("death", "allowed"),
    [
        pytest.param({"killed": True}, True, id="killed"),
        pytest.param({"killed": False, "storeless": True}, True, id="stopped without a store"),
        pytest.param({"killed": False}, False, id="stopped in order"),
    ],
)
def test_a_job_whose_daemons_died_often_may_count_as_crashing(death: dict[str, bool], *, allowed: bool) -> None:
    """A job whose daemons ended again and again without a word of it may be set aside as the one that ends them."""
    runs = [Run("j", pid, float(pid), "" if death["killed"] else "cut") for pid in range(1, 6)]
    deaths = {pid: Death(pid + 0.5, NOTHING, **death) for pid in range(1, 6)}
    verdict = find(dead(Reason.CRASHING, runs=runs, deaths=deaths).evidence())
    assert (verdict.wrong == []) is allowed
    assert verdict.again == {Why.KILLED if death["killed"] else Why.STOPPED: 4}


@pytest.mark.parametrize(("handed", "allowed"), [(True, True), (False, False)])
def test_a_kill_between_a_start_and_its_handler_counts_too(*, handed: bool, allowed: bool) -> None:
    """A daemon that was alone with a job it was handed, and killed before its handler began, counts for crashing."""
    runs = [Run("j", pid, pid + 0.5) for pid in range(1, 4)]
    deaths = {pid: Death(pid + 0.9, NOTHING, killed=True, born=float(pid)) for pid in range(1, 5)}
    evidence = dead(Reason.CRASHING, runs=runs, deaths=deaths).evidence()
    evidence.watch.received["j"] = [4.5 if handed else 4.95]
    assert (find(evidence).wrong == []) is allowed


def test_the_journal_pairs_begins_with_ends() -> None:
    """Lines of two processes and of two runs of one job become the runs that they are."""
    lines = ["1.0 7 begin a", "1.5 8 begin a", "2.0 7 begin b", "2.5 8 end a", "3.0 7 begin a", "4.0 7 end a"]
    assert read_journal(lines) == [
        Run("a", 7, 1.0, "end", 4.0),
        Run("a", 8, 1.5, "end", 2.5),
        Run("b", 7, 2.0),
        Run("a", 7, 3.0),
    ]
