"""The operators' queries on every engine, while a daemon owns the store."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from consumer.errors import StoreError, UsageError
from consumer.message.notification import message_key
from consumer.policy import Reason
from consumer.store.ledger import (
    Begun,
    Claimed,
    DeadLetterRecord,
    Elsewhere,
    Filter,
    JobRecord,
    Ledger,
    LetterState,
    Progress,
    StoredLetter,
)
from consumer.store.queries import Operators
from tests.store.records import ended, run
from tests.stores import operators_at

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]


@pytest.fixture
async def five(ledger: Ledger, make_letter: MakeLetter) -> list[DeadLetterRecord]:
    """Five letters that differ in the fields that a filter has."""
    letters = [
        make_letter("a", reason=Reason.REJECTED),
        make_letter("b", reason=Reason.UNROUTED, function="VideoH2V"),
        make_letter("c", reason=Reason.UNROUTED, queue="9/cn-beijing/other"),
        make_letter("d", reason=Reason.EXHAUSTED, job_id=None),
        make_letter("e", reason=Reason.EXHAUSTED),
    ]
    for letter in letters:
        await ledger.claim(letter.job.key, 60)
        await ledger.set_aside(letter)
    return letters


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        pytest.param(Filter(), "abcde", id="all"),
        pytest.param(Filter(reason=Reason.UNROUTED), "bc", id="reason"),
        pytest.param(Filter(function="VideoH2V"), "b", id="function"),
        pytest.param(Filter(queue="9/cn-beijing/other"), "c", id="queue"),
        pytest.param(Filter(job_id="J-e"), "e", id="job id"),
        pytest.param(Filter(since=4e9), "", id="since"),
        pytest.param(Filter(since=1.0, until=4e9), "abcde", id="since and until"),
        pytest.param(Filter(until=1.0), "", id="until"),
        pytest.param(Filter(error="THIS, came"), "abcde", id="text in the error"),
        pytest.param(Filter(error="th_s"), "", id="an underscore stands for itself"),
        pytest.param(Filter(error="100%"), "", id="a percent sign too"),
        pytest.param(Filter(since=1.0, reason=Reason.EXHAUSTED, function="Cover"), "de", id="all of them"),
        pytest.param(Filter(ids=(1, 3, 99)), "ac", id="numbers"),
        pytest.param(Filter(state=LetterState.SET_ASIDE), "abcde", id="state"),
        pytest.param(Filter(state=LetterState.REPLAYED), "", id="other state"),
        pytest.param(Filter(error_fingerprint="0123456789abcdef"), "abcde", id="fingerprint"),
        pytest.param(Filter(error_fingerprint="f" * 16), "", id="other fingerprint"),
        pytest.param(Filter(queue="' OR 1=1 --"), "", id="a filter is never SQL"),
    ],
)
async def test_filters(operators: Operators, five: list[DeadLetterRecord], wanted: Filter, keys: str) -> None:
    """Each filter finds its letters; counting and purging agree with listing."""
    found = await operators.list_letters(wanted, limit=10)
    assert "".join(stored.letter.job.key for stored in found) == keys
    assert await operators.count_letters(wanted) == len(keys)
    assert await operators.purge(wanted) == len(keys)
    assert await operators.count_letters(Filter()) == 5 - len(keys)


async def test_a_walk_ends_with_what_was_there(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_letter: MakeLetter
) -> None:
    """What a daemon sets aside during a walk is left to the next one, so that a walk ends."""
    seen = []
    async for one in operators.walk_letters(Filter(), page=2):
        seen.append(one.letter.job.key)
        await ledger.claim(f"late-{one.id}", 60)
        await ledger.set_aside(make_letter(f"late-{one.id}"))
    assert seen == list("abcde")


async def test_times_choose_exactly(operators: Operators, five: list[DeadLetterRecord]) -> None:
    """Since and until choose letters and jobs by their own time, also where numbers are missing between them."""
    await operators.purge(Filter(ids=(2, 3)))
    letters, jobs = await operators.list_letters(Filter(), limit=9), await operators.list_jobs(Filter(), limit=9)
    times = sorted({*(one.stored_at for one in letters), *(job.stored_at for job in jobs)})
    for since in (times[0] - 1, *times, times[-1] + 1):
        for until in (since, *(time for time in times if time > since), times[-1] + 1):
            wanted = Filter(since=since, until=until)
            found = [one for one in letters if since <= one.stored_at < until]
            assert await operators.list_letters(wanted, limit=9) == found
            assert await operators.list_jobs(wanted, limit=9) == [job for job in jobs if since <= job.stored_at < until]


async def test_a_text_in_the_error(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """The signs that SQL's patterns have are looked for as they are."""
    for key, error in (("a", "100% of it"), ("b", "100 of_it"), ("c", "a/b\\c")):
        await ledger.claim(key, 60)
        await ledger.set_aside(replace(make_letter(key), error=error))
    for text, number in (("100%", 1), ("OF_", 2), ("/b\\", 3)):
        assert [stored.id for stored in await operators.list_letters(Filter(error=text), limit=9)] == [number]


async def test_groups(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """Letters of one fingerprint are a group with its latest letter's texts; the largest group comes first."""
    for key, group in (("a", "aa"), ("b", "bb"), ("c", "bb"), ("d", "")):
        await ledger.claim(key, 60)
        letter = make_letter(key, error_fingerprint=group, function=f"F{key}", queue=f"q{key}")
        await ledger.set_aside(replace(letter, error=f"error {key}"))
    stored = await operators.list_letters(Filter(), limit=9)
    groups = await operators.group_letters(Filter(), limit=9)
    assert [(one.error_fingerprint, one.count, one.latest) for one in groups] == [
        ("bb", 2, 3),
        ("", 1, 4),
        ("aa", 1, 1),
    ]
    assert (groups[0].reason, groups[0].function, groups[0].error) == (Reason.REJECTED, "Fc", "error c")
    assert (groups[0].first_at, groups[0].last_at) == (stored[1].stored_at, stored[2].stored_at)
    assert await operators.group_letters(Filter(), limit=1) == groups[:1]
    (one,) = await operators.group_letters(Filter(queue="qb"), limit=9)
    assert (one.count, one.latest, one.function) == (1, 2, "Fb")


async def test_counts_by_function_and_reason(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """Letters are counted for each function and reason with their different errors; the most come first."""
    for key, function, error in (("a", "F", "aa"), ("b", "F", "bb"), ("c", "F", "bb"), ("d", "G", "")):
        await ledger.claim(key, 60)
        await ledger.set_aside(make_letter(key, error_fingerprint=error, function=function, queue=f"q{key}"))
    stored = await operators.list_letters(Filter(), limit=9)
    counts = await operators.count_by_reason(Filter(), limit=9)
    assert [(one.function, one.reason, one.count, one.errors, one.latest) for one in counts] == [
        ("F", Reason.REJECTED, 3, 2, 3),
        ("G", Reason.REJECTED, 1, 1, 4),
    ]
    assert (counts[0].first_at, counts[0].last_at) == (stored[0].stored_at, stored[2].stored_at)
    assert await operators.count_by_reason(Filter(), limit=1) == counts[:1]
    (one,) = await operators.count_by_reason(Filter(queue="qb"), limit=9)
    assert (one.count, one.latest) == (1, 2)


async def test_a_count_ends_at_its_cap(operators: Operators, five: list[DeadLetterRecord]) -> None:
    """Of more than the cap one more is counted."""
    assert [await operators.count_letters(Filter(), cap=cap) for cap in (0, 3, 4, 5, 6)] == [1, 4, 5, 5, 5]


@pytest.mark.parametrize(("latest_first", "keys"), [(False, ["ab", "cd", "e"]), (True, ["ed", "cb", "a"])])
async def test_pages_of_letters(
    operators: Operators, five: list[DeadLetterRecord], *, latest_first: bool, keys: list[str]
) -> None:
    """Each page begins after the last letter of the page before, also if that letter is gone."""
    after, pages = None, []
    while page := await operators.list_letters(Filter(), limit=2, after=after, latest_first=latest_first):
        pages.append("".join(stored.letter.job.key for stored in page))
        after = page[-1].id
        await operators.purge(Filter(ids=[after]))
    assert pages == keys


async def test_pages_backwards(ledger: Ledger, operators: Operators, five: list[DeadLetterRecord]) -> None:
    """The page before a record is the nearest one, in the same order, whichever way the list goes."""
    numbers = {
        (start, descending): [
            one.id for one in await operators.list_letters(Filter(), limit=2, before=start, latest_first=descending)
        ]
        for start in (1, 4, 5)
        for descending in (False, True)
    }
    assert list(numbers.values()) == [[], [3, 2], [2, 3], [5], [3, 4], []]
    jobs = await operators.list_jobs(Filter(), limit=9)
    for start in range(5):
        page = await operators.list_jobs(Filter(), limit=2, before=jobs[start].cursor)
        assert page == jobs[max(0, start - 2) : start]


async def test_jobs(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_record: MakeRecord
) -> None:
    """Jobs that ended are listed, the latest first; those that run are not; filters of letters match none."""
    await ledger.claim("f", 60)
    await ledger.done(make_record("f", function="Other"))
    await ledger.claim("runs", 60)
    jobs = await operators.list_jobs(Filter(), limit=3)
    assert [job.record.key for job in jobs] == ["f", "e", "d"]
    assert [job.dead for job in jobs] == [False, True, True]
    (job,) = await operators.list_jobs(Filter(function="Other", since=jobs[0].stored_at - 1), limit=3)
    assert job.record == make_record("f", function="Other")
    assert await operators.list_jobs(Filter(until=jobs[0].stored_at), limit=1) != jobs[:1]
    of_letters = (Filter(ids=(1,)), Filter(reason=Reason.REJECTED), Filter(state=LetterState.SET_ASIDE))
    for wanted in (*of_letters, Filter(error="this"), Filter(error_fingerprint="f" * 16)):
        assert list(await operators.list_jobs(wanted, limit=3)) == []


@pytest.mark.parametrize(
    ("wanted", "dead", "keys"),
    [
        pytest.param(Filter(), None, "gfedcba", id="all"),
        pytest.param(Filter(), True, "edcba", id="dead"),
        pytest.param(Filter(), False, "gf", id="done"),
        pytest.param(Filter(function="Cover"), True, "edca", id="dead of a function"),
    ],
)
async def test_pages_of_jobs(
    ledger: Ledger,
    operators: Operators,
    five: list[DeadLetterRecord],
    make_record: MakeRecord,
    *,
    wanted: Filter,
    dead: bool | None,
    keys: str,
) -> None:
    """Pages by cursor list each job once, also while others end and the last one of a page is replayed."""
    for key in "fg":
        await ledger.claim(key, 60)
        await ledger.done(make_record(key))
    found, after = "", None
    for size in (2, 1, 9):
        page = await operators.list_jobs(wanted, limit=size, dead=dead, after=after)
        found += "".join(job.record.key for job in page)
        after = page[-1].cursor if page else after
        await ledger.claim(f"new{size}", 60)
        await ledger.done(make_record(f"new{size}"))
        if found.endswith("d"):
            await operators.begin_replay(4)
    assert found == keys


async def test_jobs_of_one_moment(ledger: Ledger, operators: Operators, make_record: MakeRecord) -> None:
    """Jobs that end at the same time are each on one page."""
    keys = [f"k{number}" for number in range(40)]
    await asyncio.gather(*(ledger.claim(key, 60) for key in keys))
    await asyncio.gather(*(ledger.done(make_record(key)) for key in keys))
    found, after = [], None
    while page := await operators.list_jobs(Filter(), limit=3, after=after):
        found += [job.record.key for job in page]
        after = page[-1].cursor
    assert sorted(found) == sorted(keys)


@pytest.mark.parametrize(
    ("key", "queues", "queue"),
    [
        pytest.param("1/r/q|IProduction|J", ["1/r/q"], None, id="in a queue of the settings"),
        pytest.param("1/r/q|IProduction|J|verified", [], "1/r/q", id="confirmed later, in the queue that is asked for"),
        pytest.param("1/r/q|Transcode|J|Success", ["1/r/q"], None, id="of another kind"),
        pytest.param("1/r/q|ImsEvent|J|Event", ["1/r/q"], None, id="under a key that can't be known"),
        pytest.param("1/r/q|IProduction|J", [], None, id="in an unknown queue"),
    ],
)
async def test_a_job_is_found(
    ledger: Ledger,
    operators: Operators,
    make_record: MakeRecord,
    *,
    key: str,
    queues: list[str],
    queue: str | None,
) -> None:
    """A job is found by the keys that it may have, or else by its id; another queue's job is not."""
    await ledger.claim(key, 60)
    await ledger.done(make_record(key, job_id="J", queue="1/r/q"))
    jobs, letters = await operators.find_job("J", queue=queue, queues=queues)
    assert ([job.record.key for job in jobs], list(letters)) == ([key], [])
    assert await operators.find_job("J", queue="1/r/other") == ([], [])
    assert await operators.find_job("K", queues=["1/r/q"]) == ([], [])


async def test_a_job_is_found_with_its_letters(
    ledger: Ledger, operators: Operators, make_letter: MakeLetter, make_record: MakeRecord
) -> None:
    """The letters of a job show in which other queue to look for its end."""
    await ledger.claim("message", 60)
    await ledger.set_aside(make_letter("message", job_id="J", queue="1/r/q"))
    key = "1/r/q|IProduction|J"
    await ledger.claim(key, 60)
    await ledger.done(make_record(key, job_id="J", queue="1/r/q"))
    jobs, letters = await operators.find_job("J")
    assert ([job.record.key for job in jobs], [one.id for one in letters]) == ([key, "message"], [1])


async def test_open_jobs(ledger: Ledger, operators: Operators) -> None:
    """A job whose last run has left it open is listed with that run's facts, also one that waits; others are not."""
    keys = {name: f"1/r/q|IProduction|{name}" for name in ("failed", "waits", "released", "began")}
    for key in keys.values():
        await ledger.claim(key, 60)
    await ledger.fail(run(keys["failed"], "it broke", queue="1/r/q", job_id="failed"))
    await ledger.release(keys["waits"], run(keys["waits"], "too early", function="Other", retry_at=None))
    await ledger.release(keys["released"])
    waiting = {one.key: one for one in await operators.list_open(limit=9, running=False)}
    assert waiting.keys() == {keys["failed"], keys["waits"]}
    one = waiting[keys["failed"]]
    assert (one.queue, one.function, one.job_id, one.error) == ("1/r/q", "Cover", "failed", "it broke")
    assert (one.failures, one.attempt, one.held_until, one.retry_at) == (1, 2, None, 1010.5)
    two = waiting[keys["waits"]]
    assert (two.failures, two.attempt, two.error, two.retry_at) == (0, 1, "too early", None)
    assert list(await operators.list_open(limit=9, function="Other")) == [two]
    assert list(await operators.list_open(limit=9, function="None")) == []


async def test_an_open_job_is_found_by_its_message(ledger: Ledger, operators: Operators) -> None:
    """A run that was counted for its message, not for its job, is found by the job's id all the same."""
    await ledger.claim(message_key("1/r/q", "M"), 60)
    await ledger.fail(run(message_key("1/r/q", "M"), job_id="J"))
    (one,) = await operators.list_open(limit=9, job_id="J")
    assert (one.job_id, one.queue) == ("J", "1/r/q")


async def test_a_replay_forgets_the_last_run(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """A replayed key is like a new one, and the runs of before stay in its history."""
    await ledger.claim("k", 60)
    await ledger.fail(run("k", trace_parent="00-0"))
    assert await ledger.claim("k", 60) == Claimed(failures=1, trace_parent="00-0")
    await ledger.set_aside(make_letter("k"))
    assert await operators.begin_replay(1) is not None
    assert list(await operators.list_open(limit=9)) == []
    assert await ledger.claim("k", 60) == Claimed()
    assert [one.key for one in await operators.list_runs("k")] == ["k"]


async def test_a_query_that_takes_long(ledger: Ledger, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, the error says how to ask for less, and the next query works."""
    monkeypatch.setattr("consumer.store.sqlite.database.QUERY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("consumer.store.postgres.connection.STATEMENT_TIMEOUT_S", 0.05)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(StoreError, match="was stopped; narrow it by --reason"):
        await operators._database.run(lambda session: session.fetch(endless, ()))
    assert await operators.count_letters(Filter()) == 0


@pytest.mark.parametrize("text", ["", "-1", "x", "1; DROP TABLE job", "9" * 40, "1-" + "g" * 32, "\u0661"])
async def test_a_foreign_cursor(operators: Operators, five: list[DeadLetterRecord], text: str) -> None:
    """A text that no page gave is refused."""
    for edge in ("after", "before"):
        with pytest.raises(UsageError, match="unknown cursor"):
            await operators.list_jobs(Filter(), limit=1, **{edge: text})  # type: ignore[arg-type]  # mypy sees no names


async def test_replay(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """A replayed letter's key runs again from nothing; dying again makes a new letter and leaves the old one."""
    await ledger.claim("k", 60)
    await ledger.fail(run("k", "x"))
    await ledger.claim("k", 60)
    await ledger.set_aside(make_letter("k"))
    begun = await operators.begin_replay(1)
    assert begun is not None
    assert (begun.before.state, begun.before.letter) == (LetterState.SET_ASIDE, make_letter("k"))
    now = await operators.get_letter(1)
    assert now.progress == Progress(LetterState.REPLAYING, begun.began_at)
    assert await ledger.claim("k", 60) == Claimed(failures=0, starts=0)
    await operators.finish_replay(1)
    await operators.finish_replay(1)
    done = await operators.get_letter(1)
    assert done.state is LetterState.REPLAYED
    assert done.replayed_at is not None
    assert done.replayed_at >= done.stored_at > 1e9
    assert await ledger.set_aside(make_letter("k", reason=Reason.EXHAUSTED))
    letters = await operators.list_letters(Filter(), limit=9)
    assert [(stored.id, stored.state) for stored in letters] == [(1, LetterState.REPLAYED), (2, LetterState.SET_ASIDE)]


async def test_a_replay_that_broke_off(ledger: Ledger, operators: Operators, five: list[DeadLetterRecord]) -> None:
    """A letter whose replay never finished is listed as such, and can be replayed without force."""
    await operators.begin_replay(2)
    (cut_off,) = await operators.list_letters(Filter(state=LetterState.REPLAYING), limit=9)
    assert cut_off.id == 2
    begun = await operators.begin_replay(2, seen=cut_off.progress)
    assert begun is not None
    assert begun.before == cut_off
    await operators.finish_replay(2)
    assert (await operators.get_letter(2)).state is LetterState.REPLAYED


@pytest.fixture(params=list(LetterState))
async def seen(request: pytest.FixtureRequest, operators: Operators, five: list[DeadLetterRecord]) -> StoredLetter:
    """The first letter, this far on its way back."""
    if request.param is not LetterState.SET_ASIDE:
        await operators.begin_replay(1)
    if request.param is LetterState.REPLAYED:
        await operators.finish_replay(1)
    return await operators.get_letter(1)


async def test_one_of_many_begins(target: str, operators: Operators, seen: StoredLetter) -> None:
    """Of commands that saw the same letter and begin at once, one does; the others learn that it changed."""
    others = [operators_at(target) for _ in range(5)]
    answers = await asyncio.gather(
        *(other.begin_replay(1, seen=seen.progress, force=True) for other in others), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, UsageError)]
    assert [type(answer) for answer in answers if answer not in refused] == [Begun]
    for error in refused:
        assert f"dead letter 1 was {seen.state.value} when it was chosen and" in str(error)
    await operators.finish_replay(1)
    with pytest.raises(UsageError, match="it is left alone"):
        await operators.begin_replay(1, seen=seen.progress, force=True)
    for other in others:
        await other.close()


async def test_called_off(ledger: Ledger, operators: Operators, seen: StoredLetter) -> None:
    """A replay that is called off leaves letter and key as they were: a key that was closed is closed again."""
    was_open = seen.state is not LetterState.SET_ASIDE
    begun = await operators.begin_replay(1, seen=seen.progress, force=True)
    assert begun is not None
    assert await operators.get_letter(1) != seen
    await operators.cancel_replay(begun)
    assert await operators.get_letter(1) == seen
    jobs = [job for job in await operators.list_jobs(Filter(), limit=9) if job.record.key == "a"]
    assert [(job.record, job.dead) for job in jobs] == ([] if was_open else [(seen.letter.job, True)])
    assert await ledger.claim("a", 60) == (Claimed() if was_open else ended(dead=True))
    with pytest.raises(UsageError, match=r"dead letter 1 is .* by another command since its replay was begun"):
        await operators.cancel_replay(begun)


async def test_called_off_after_it_was_done(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_record: MakeRecord
) -> None:
    """A forced replay of a job that was done leaves it done when it is called off, its record included."""
    await operators.begin_replay(1)
    await operators.finish_replay(1)
    await ledger.claim("a", 60)
    await ledger.done(make_record("a", result="stills"))
    begun = await operators.begin_replay(1, seen=(await operators.get_letter(1)).progress, force=True)
    assert begun is not None
    await operators.cancel_replay(begun)
    assert await ledger.claim("a", 60) == ended(dead=False)
    assert (await operators.list_jobs(Filter(), limit=1))[0].record == make_record("a", result="stills")


async def test_called_off_while_it_runs(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_record: MakeRecord
) -> None:
    """A run that has claimed the key meanwhile ends it as if no replay had been cancelled."""
    for number, key, waits in ((1, "a", False), (2, "b", True)):
        begun = await operators.begin_replay(number)
        assert begun is not None
        assert await ledger.claim(key, 60) == Claimed()
        if waits:
            assert await ledger.done(make_record(key))
        await operators.cancel_replay(begun)
        assert waits or await ledger.done(make_record(key))
        assert await ledger.claim(key, 60) == ended(dead=False)


async def test_handled_meanwhile(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_record: MakeRecord
) -> None:
    """A letter that was perhaps sent is not replayed again if its job is done: it is marked as replayed."""
    await operators.begin_replay(1)
    await ledger.claim("a", 60)
    await ledger.done(make_record("a"))
    seen = await operators.get_letter(1)
    assert await operators.begin_replay(1, seen=seen.progress) is None
    marked = await operators.get_letter(1)
    assert marked.state is LetterState.REPLAYED
    assert marked.replayed_at is not None
    assert await ledger.claim("a", 60) == ended(dead=False)
    with pytest.raises(UsageError, match=r"replayed at .*--force"):
        await operators.begin_replay(1, seen=marked.progress)


async def test_handled_meanwhile_and_forced(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord], make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """With force it is begun all the same; without it too, when its job has not been done but died once more."""
    for number in (1, 2):
        await operators.begin_replay(number)
    await ledger.claim("a", 60)
    await ledger.done(make_record("a"))
    await ledger.claim("b", 60)
    await ledger.set_aside(make_letter("b"))
    for number, key, force in ((1, "a", True), (2, "b", False)):
        seen = await operators.get_letter(number)
        assert isinstance(await operators.begin_replay(number, seen=seen.progress, force=force), Begun)
        assert (await operators.get_letter(number)).state is LetterState.REPLAYING
        assert await ledger.claim(key, 60) == Claimed()


async def test_force(ledger: Ledger, operators: Operators, five: list[DeadLetterRecord]) -> None:
    """A replayed letter needs force."""
    await operators.begin_replay(1)
    await operators.finish_replay(1)
    assert await ledger.claim("a", 0.01) == Claimed()
    seen = (await operators.get_letter(1)).progress
    with pytest.raises(UsageError, match=r"replayed at \d{4}-.*--force"):
        await operators.begin_replay(1, seen=seen)
    assert isinstance(await operators.begin_replay(1, seen=seen, force=True), Begun)


async def test_a_replay_of_what_runs(ledger: Ledger, operators: Operators, five: list[DeadLetterRecord]) -> None:
    """Forcing a replay of a job that runs leaves its claim alone."""
    await operators.begin_replay(1)
    await operators.finish_replay(1)
    assert await ledger.claim("a", 60) == Claimed()
    seen = (await operators.get_letter(1)).progress
    await operators.begin_replay(1, seen=seen, force=True)
    assert isinstance(await ledger.claim("a", 60), Elsewhere)


async def test_what_can_not_be(operators: Operators, five: list[DeadLetterRecord]) -> None:
    """Unknown numbers and ends of replays that never began are refused and change nothing."""
    for call in (operators.get_letter, operators.begin_replay, operators.finish_replay):
        with pytest.raises(UsageError, match="no dead letter has the number 77"):
            await call(77)
    with pytest.raises(UsageError, match="is set_aside, expected replaying"):
        await operators.finish_replay(1)
    stored = await operators.get_letter(1)
    with pytest.raises(UsageError, match="is set_aside by another command"):
        await operators.cancel_replay(Begun(stored, stored.stored_at, None))
    with pytest.raises(UsageError, match="no dead letter has the number 77"):
        await operators.cancel_replay(Begun(replace(stored, id=77), stored.stored_at, None))
    with pytest.raises(UsageError, match="was replayed when it was chosen and is set_aside now; it is left alone"):
        await operators.begin_replay(1, seen=Progress(LetterState.REPLAYED, 1.0), force=True)
    assert await operators.count_letters(Filter(state=LetterState.SET_ASIDE)) == 5


async def test_old_replayed_letters_go_first(
    ledger: Ledger, operators: Operators, five: list[DeadLetterRecord]
) -> None:
    """Replayed letters are pruned with the jobs; the others stay until their own age, however many there are."""
    await operators.begin_replay(4)
    await operators.finish_replay(4)
    await anyio.sleep(0.02)
    assert await ledger.prune(older_than_s=0, limit=100) == 4 + 1
    assert [stored.id for stored in await operators.list_letters(Filter(), limit=9)] == [1, 2, 3, 5]
    assert await ledger.claim("a", 60) == Claimed()


async def test_a_large_purge(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """More letters than one step takes are purged, and their keys stay closed."""
    async with anyio.create_task_group() as tasks:
        for number in range(450):

            async def die(key: str) -> None:
                await ledger.claim(key, 60)
                await ledger.set_aside(make_letter(key))

            tasks.start_soon(die, f"k{number}")
    assert await operators.purge(Filter(reason=Reason.REJECTED)) == 450
    assert await ledger.claim("k7", 60) == ended(dead=True)


async def test_nothing_there_yet(target: str, sqlite_path: Path) -> None:
    """A store that no daemon has made yet is an error, and nothing is made."""
    operators = operators_at(target)
    with pytest.raises(StoreError, match="daemon"):
        await operators.count_letters(Filter())
    await operators.close()
    assert not sqlite_path.parent.exists()
