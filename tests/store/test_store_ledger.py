"""What every engine must do for the daemon: one suite, on SQLite and PostgreSQL, on both event loops, and in memory."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from consumer.errors import StoreError
from consumer.policy import Reason
from consumer.store.ledger import (
    Claimed,
    DeadLetterRecord,
    Elsewhere,
    Filter,
    JobRecord,
    Ledger,
    LettersHeld,
    WaitingLetters,
)
from consumer.store.queries import Operators
from consumer.store.rows import RUNS_KEPT
from tests.store.records import ended, run

Make = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]
Successor = Callable[[], Awaitable[Ledger]]
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


QUEUE = "1234/cn-hangzhou/done"

pytestmark = pytest.mark.parametrize("target", ["memory", "sqlite", "postgres", "pooled"], indirect=True)


@pytest.fixture(params=[pytest.param(False, id="asyncio"), pytest.param(True, id="uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_a_new_key_is_ours(ledger: Ledger) -> None:
    """An unknown key is claimed, with no failures and no starts."""
    assert await ledger.claim("k", 60) == Claimed(failures=0, starts=0)


async def test_a_claim_is_one(ledger: Ledger) -> None:
    """A claimed key is ``ClaimedElsewhere`` for every caller, until about the end of its lease."""
    await ledger.claim("k", 60)
    answer = await ledger.claim("k", 60)
    assert isinstance(answer, Elsewhere)
    assert 55 < answer.remaining_s <= 60


async def test_many_claim_one_key(ledger: Ledger) -> None:
    """Of many tasks that claim a key at once exactly one gets it."""
    answers = await asyncio.gather(*(ledger.claim("k", 60) for _ in range(50)))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1


async def test_a_claim_ends(ledger: Ledger) -> None:
    """A claim whose lease has ended may be taken."""
    await ledger.claim("k", 0.05)
    await anyio.sleep(0.1)
    assert await ledger.claim("k", 60) == Claimed()


async def test_done_is_the_end(ledger: Ledger, successor: Successor, make_record: Make) -> None:
    """A key that is done has ended, for this holder and the next."""
    await ledger.claim("k", 60)
    assert await ledger.done(make_record("k"))
    assert await ledger.claim("k", 60) == ended(dead=False)
    assert await (await successor()).claim("k", 60) == ended(dead=False)


async def test_a_dead_letter_is_the_end(ledger: Ledger, successor: Successor, make_letter: MakeLetter) -> None:
    """A key that is set aside has ended dead, for this holder and the next."""
    await ledger.claim("k", 60)
    assert await ledger.set_aside(make_letter("k"))
    assert await ledger.claim("k", 60) == ended(dead=True)
    assert await (await successor()).claim("k", 60) == ended(dead=True)


async def test_what_is_kept(ledger: Ledger, operators: Operators, make_record: Make, make_letter: MakeLetter) -> None:
    """Every field of a record and of a letter comes back as it was given, the body byte for byte."""
    dead = make_letter("dead", body=bytes(range(256)) * 200)
    for key in ("done", "dead", "bare"):
        await ledger.claim(key, 60)
    bare = JobRecord(key="bare", queue="q", kind="k", function="f", message_id="m")
    assert await ledger.done(make_record("done"))
    assert await ledger.set_aside(dead)
    assert await ledger.done(bare)
    jobs = await operators.list_jobs(Filter(), limit=10)
    assert {job.record.key: job.record for job in jobs} == {
        "done": make_record("done"),
        "dead": dead.job,
        "bare": bare,
    }
    assert {job.record.key for job in jobs if job.dead} == {"dead"}
    (stored,) = await operators.list_letters(Filter(), limit=10)
    assert stored.letter == dead


async def test_a_repeated_end(ledger: Ledger, operators: Operators, make_record: Make, make_letter: MakeLetter) -> None:
    """An end that its holder repeats is the same end: true again, and nothing is stored twice."""
    for key in ("a", "b"):
        await ledger.claim(key, 60)
    assert [await ledger.done(make_record("a")) for _ in range(3)] == [True] * 3
    assert [await ledger.set_aside(make_letter("b")) for _ in range(3)] == [True] * 3
    assert not await ledger.set_aside(make_letter("a"))
    assert not await ledger.done(make_record("b"))
    assert await operators.count_letters(Filter()) == 1
    assert len(await operators.list_jobs(Filter(), limit=10)) == 2


async def test_not_ours(
    ledger: Ledger, successor: Successor, operators: Operators, make_record: Make, make_letter: MakeLetter
) -> None:
    """A key that another holder has claimed can't be ended, failed, started, released or renewed."""
    await ledger.claim("k", 0.05)
    await ledger.start("k")
    await anyio.sleep(0.1)
    other = await successor()
    assert await other.claim("k", 60) == Claimed(failures=0, starts=1)
    stale = ledger
    if isinstance(await _outcome(stale.ping()), StoreError):
        # The first owner of a file has ended with its claims; one who never claimed stands in for it.
        stale, key = other, "never claimed"
    else:
        key = "k"
    assert not await stale.done(make_record(key))
    assert not await stale.set_aside(make_letter(key))
    assert await stale.fail(run(key, "x")) == 0
    assert await stale.start(key) == (1 if key == "k" else 0)
    await stale.release(key)
    assert list(await stale.renew([key, "unknown"], 60)) == [key, "unknown"]
    assert isinstance(await other.claim("k", 60), Elsewhere)
    await stale.release(key, run(key))
    assert list(await operators.list_runs(key)) == []
    assert await operators.count_letters(Filter()) == 0
    assert list(await operators.list_jobs(Filter(), limit=10)) == []


async def _outcome(call: Awaitable[None]) -> StoreError | None:
    try:
        await call
    except StoreError as error:
        return error
    return None


async def test_take_over_by_a_successor(ledger: Ledger, successor: Successor, make_record: Make) -> None:
    """The next holder takes over the running keys, and its end counts."""
    await ledger.claim("k", 0.05)
    await anyio.sleep(0.1)
    other = await successor()
    assert await other.claim("k", 60) == Claimed()
    assert await other.done(make_record("k"))


async def test_failures_are_counted(ledger: Ledger, successor: Successor, make_record: Make) -> None:
    """Failures add up over claims and holders until the key ends; each one releases the key."""
    for failures in range(3):
        assert await ledger.claim("k", 60) == Claimed(failures=failures)
        assert await ledger.fail(run("k", "it broke")) == failures + 1
        # Repeated when the first answer was lost: counted once.
        assert await ledger.fail(run("k", "it broke")) == failures + 1
    other = await successor()
    assert await other.claim("k", 60) == Claimed(failures=3)
    assert await other.done(make_record("k"))


async def test_runs_are_stored(ledger: Ledger, successor: Successor, operators: Operators, make_record: Make) -> None:
    """Each run that leaves its job open is kept as given, also when the job ends; the next claim has its span."""
    failed = run("k", trace_parent=TRACE)
    waits = run("k", "too early", attempt=2, result="waiting", traceback=None, job_id=None, retry_at=None)
    await ledger.claim("k", 60)
    assert await ledger.fail(failed) == 1
    # Repeated when the first answer was lost: stored once.
    assert await ledger.fail(failed) == 1
    assert await ledger.claim("k", 60) == Claimed(failures=1, trace_parent=failed.trace_parent)
    await ledger.start("k")
    await ledger.release("k", waits)
    await ledger.release("k", waits)
    await ledger.claim("other", 60)
    await ledger.release("other", run("other"))
    other = await successor()
    assert await other.claim("other", 60) == Claimed()
    assert await other.claim("k", 60) == Claimed(failures=1)
    assert await other.done(make_record("k"))
    assert list(await operators.list_runs("k")) == [failed, waits]
    assert list(await operators.list_runs("other", "unknown")) == [run("other")]
    assert list(await operators.list_runs()) == []


async def test_a_released_key_without_a_run_has_none(ledger: Ledger, operators: Operators) -> None:
    """A release without a run stores nothing, and leaves what the last run has left."""
    for _ in range(2):
        await ledger.claim("k", 60)
        await ledger.release("k")
    assert list(await operators.list_runs("k")) == []
    await ledger.claim("k", 60)
    await ledger.fail(run("k", trace_parent=TRACE))
    for _ in range(2):
        assert await ledger.claim("k", 60) == Claimed(failures=1, trace_parent=TRACE)
        await ledger.start("k")
        await ledger.release("k")
    assert list(await operators.list_runs("k")) == [run("k", trace_parent=TRACE)]


async def test_the_last_runs_are_kept(ledger: Ledger, operators: Operators) -> None:
    """Of a key's runs the last 20 are kept, and a traceback with the last run of its error alone."""
    runs = [run("k", f"error {number % 2}", attempt=number, result="waiting") for number in range(RUNS_KEPT + 5)]
    for one in runs:
        await ledger.claim("k", 60)
        await ledger.release("k", one)
    await ledger.claim("k", 60)
    await ledger.release("k", replace(runs[0], traceback=None, error="no traceback"))
    found = await operators.list_runs("k")
    assert [one.attempt for one in found] == [*range(6, RUNS_KEPT + 5), 0]
    assert [one.traceback for one in found[-3:]] == ["Traceback: error 1", "Traceback: error 0", None]
    assert {one.traceback for one in found[:-3]} == {None}


async def test_starts_are_counted(ledger: Ledger, successor: Successor) -> None:
    """The next holder sees a start without an end; repeated it counts once."""
    await ledger.claim("k", 0.05)
    assert [await ledger.start("k"), await ledger.start("k")] == [1, 1]
    await anyio.sleep(0.1)
    other = await successor()
    assert await other.claim("k", 60) == Claimed(failures=0, starts=1)
    assert await other.start("k") == 2


async def test_release_takes_back_a_start(ledger: Ledger) -> None:
    """A release counts nothing and takes back only its own start."""
    await ledger.claim("k", 0.05)
    await ledger.start("k")
    await anyio.sleep(0.1)
    assert await ledger.claim("k", 60) == Claimed(starts=1)
    assert await ledger.start("k") == 2
    await ledger.release("k")
    await ledger.release("k")
    assert await ledger.claim("k", 60) == Claimed(starts=1)
    await ledger.release("k")
    assert await ledger.claim("k", 60) == Claimed(starts=1)


async def test_a_failure_ends_its_start(ledger: Ledger) -> None:
    """A run that failed has ended: it is a failure and no crash."""
    await ledger.claim("k", 60)
    await ledger.start("k")
    assert await ledger.fail(run("k", "x")) == 1
    assert await ledger.claim("k", 60) == Claimed(failures=1, starts=0)


async def test_renewing_keeps(ledger: Ledger) -> None:
    """Renewed claims last longer; keys that were never ours are returned; no keys are no error."""
    await ledger.claim("k", 0.2)
    assert list(await ledger.renew(["k", "other"], 60)) == ["other"]
    assert list(await ledger.renew([], 60)) == []
    await anyio.sleep(0.25)
    assert isinstance(await ledger.claim("k", 60), Elsewhere)


@pytest.mark.parametrize("lease_s", [math.inf, -math.inf, math.nan, 0, 0.0, -1.0])
async def test_a_lease_is_finite(ledger: Ledger, lease_s: float) -> None:
    """A lease that never ends, or that is over at once, is its caller's bug: it raises, and nothing is claimed."""
    await ledger.claim("claimed", 60)
    with pytest.raises(ValueError, match=r"lease_s is .*, expected a finite number of seconds above 0"):
        await ledger.claim("k", lease_s)
    for keys in (["claimed"], []):
        with pytest.raises(ValueError, match="lease_s"):
            await ledger.renew(keys, lease_s)
    assert await ledger.claim("k", 60) == Claimed()
    assert isinstance(await ledger.claim("claimed", 60), Elsewhere)


async def test_a_late_holder_still_ends(ledger: Ledger, make_record: Make) -> None:
    """A claim whose lease has ended is its holder's until another takes it."""
    await ledger.claim("k", 0.01)
    await anyio.sleep(0.05)
    assert list(await ledger.renew(["k"], 0.01)) == []
    assert await ledger.done(make_record("k"))


async def test_cancelled_calls_run_their_course(ledger: Ledger, make_record: Make) -> None:
    """The call of a cancelled caller still takes effect, and so do the other calls of its batch."""
    await ledger.claim("gone", 60)
    await ledger.claim("stays", 60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.done, make_record("gone"))
        tasks.start_soon(anyio.sleep, 0)
        await asyncio.sleep(0)
        neighbour = asyncio.ensure_future(ledger.done(make_record("stays")))
        await asyncio.sleep(0)
        tasks.cancel_scope.cancel()
    assert await neighbour
    assert await ledger.claim("gone", 60) == ended(dead=False)


async def test_calls_about_a_key_keep_their_order(ledger: Ledger) -> None:
    """Calls of one turn about one key take effect in the order in which they were made."""
    answers = await asyncio.gather(
        ledger.claim("k", 60), ledger.start("k"), ledger.release("k"), ledger.claim("k", 60), ledger.fail(run("k", "x"))
    )
    assert list[object](answers) == [Claimed(), 1, None, Claimed(), 1]


async def test_many_at_once(ledger: Ledger, make_record: Make, make_letter: MakeLetter) -> None:
    """Hundreds of messages at once each get their own answer."""

    async def live(number: int) -> bool:
        key = f"key {number}"
        assert await ledger.claim(key, 60) == Claimed()
        if number % 3 == 0:
            return await ledger.set_aside(make_letter(key))
        if number % 3 == 1:
            return await ledger.fail(run(key, "x")) == 1
        return await ledger.done(make_record(key))

    assert all(await asyncio.gather(*(live(number) for number in range(600))))
    answers = await asyncio.gather(*(ledger.claim(f"key {number}", 60) for number in range(600)))
    assert list(answers) == [ended(dead=True), Claimed(failures=1), ended(dead=False)] * 200


async def test_text_that_databases_refuse(
    ledger: Ledger, operators: Operators, make_record: Make, make_letter: MakeLetter
) -> None:
    """NUL and lone surrogates are replaced wherever they come, long errors and tracebacks are cut, bodies never."""
    nasty = "a\x00b\ud800c"
    dead = make_letter("k", body=nasty.encode("utf-8", "surrogatepass"), message=nasty, user_data=nasty)
    dead = DeadLetterRecord(
        job=dead.job, reason=Reason.EXHAUSTED, error="\x00é" * 9000, traceback="\ud800ü" * 90_000, body=dead.body
    )
    await ledger.claim("k", 60)
    await ledger.claim("r", 60)
    await ledger.claim("f", 60)
    assert await ledger.fail(run("f", nasty * 5000, traceback=nasty * 90_000, job_id=nasty)) == 1
    (failed,) = await operators.list_runs("f")
    assert (len(failed.error.encode()) <= 2048, failed.job_id) == (True, "a\ufffdb\ufffdc")
    assert failed.traceback is not None
    assert 16_000 < len(failed.traceback.encode()) <= 16_384
    assert await ledger.set_aside(dead)
    assert await ledger.done(make_record("r", result=nasty, code="\ud800"))
    (stored,) = await operators.list_letters(Filter(), limit=1)
    assert stored.letter.body == dead.body
    assert stored.letter.job.user_data == "a\ufffdb\ufffdc"
    assert len(stored.letter.error.encode()) <= 2048
    assert stored.letter.traceback is not None
    assert 16_000 < len(stored.letter.traceback.encode()) <= 16_384
    (job,) = [job for job in await operators.list_jobs(Filter(), limit=9) if not job.dead]
    assert (job.record.result, job.record.code) == ("a\ufffdb\ufffdc", "\ufffd")


async def test_one_bad_value_harms_no_neighbour(ledger: Ledger, make_record: Make) -> None:
    """A value that no database takes is that call's error alone."""
    keys = [f"k{number}" for number in range(5)]
    for key in keys:
        await ledger.claim(key, 60)
    answers = await asyncio.gather(
        *(ledger.done(make_record(key, attempts=2**70 if key == "k2" else 1)) for key in keys),
        ledger.claim("\ud800", 60),
        ledger.claim("good", 60),
        return_exceptions=True,
    )
    assert [answer for number, answer in enumerate(answers[:5]) if number != 2] == [True] * 4
    assert isinstance(answers[2], StoreError)
    assert isinstance(answers[5], StoreError)
    assert answers[6] == Claimed()
    assert await ledger.done(make_record("k2"))


async def test_pruning(ledger: Ledger, operators: Operators, make_record: Make, make_letter: MakeLetter) -> None:
    """Old jobs are pruned in steps of the given size, young ones stay; letters have an age of their own."""
    for number in range(5):
        await ledger.claim(f"k{number}", 60)
        await ledger.done(make_record(f"k{number}"))
    await ledger.claim("dead", 60)
    await ledger.set_aside(make_letter("dead"))
    await ledger.claim("failing", 60)
    await ledger.fail(run("failing", "x"))
    assert await ledger.prune(older_than_s=3600, limit=100, letters_older_than_s=3600) == 0
    await anyio.sleep(0.02)
    assert await ledger.prune(older_than_s=0, limit=2) == 2
    assert await ledger.prune(older_than_s=0, limit=100) == 6
    assert await ledger.claim("k0", 60) == Claimed()
    assert await ledger.claim("failing", 60) == Claimed()
    assert list(await operators.list_runs("failing")) == []
    assert await operators.count_letters(Filter()) == 1
    assert await ledger.prune(older_than_s=3600, limit=100, letters_older_than_s=0) == 1
    assert await operators.count_letters(Filter()) == 0


async def test_pruning_takes_no_running_claim(ledger: Ledger, make_record: Make) -> None:
    """A key that is claimed is not pruned, however old it is."""
    await ledger.claim("k", 60)
    await ledger.start("k")
    await anyio.sleep(0.02)
    await ledger.prune(older_than_s=0, limit=100)
    assert isinstance(await ledger.claim("k", 60), Elsewhere)
    assert await ledger.done(make_record("k"))


async def test_letters_are_counted(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """Dead letters count with the bytes of body and texts as stored, until they are replayed, purged or pruned."""
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(0, 0)
    letters = [
        make_letter("a", body=b"\xff" * 1000),
        make_letter("b", message="\u4f60" * 10, user_data=None, result="{}"),
        replace(make_letter("c", message=None, result=None), traceback=None, error="\u00fc" * 9000),
    ]
    for one in letters:
        await ledger.claim(one.job.key, 60)
        assert await ledger.set_aside(one)
        assert await ledger.set_aside(one)
    stored = await operators.list_letters(Filter(), limit=9)
    sizes = [one.letter.size_bytes for one in stored]
    assert sizes[1] == 8 + 29 - 7 + 15 + 30 + 2
    assert sizes[2] < 2100
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(3, sum(sizes))
    assert await operators.begin_replay(stored[0].id) is not None
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(3, sum(sizes))
    await operators.finish_replay(stored[0].id)
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(2, sum(sizes[1:]))
    await operators.purge(Filter(ids=(stored[1].id,)))
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(1, sizes[2])
    await ledger.prune(older_than_s=0, limit=100, letters_older_than_s=0)
    assert LettersHeld.of(await ledger.waiting()) == LettersHeld(0, 0)


async def test_waiting_letters_are_grouped(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """Letters wait by queue and reason with the time of the oldest, until they are replayed or purged."""
    assert list(await ledger.waiting()) == []
    before = await ledger.now()
    letters = [
        make_letter("a", queue="q2", reason=Reason.REJECTED),
        make_letter("b", queue="q2", reason=Reason.EXHAUSTED),
        make_letter("c", queue="q1", reason=Reason.REJECTED),
        make_letter("d", queue="q2", reason=Reason.REJECTED),
    ]
    for one in letters:
        await ledger.claim(one.job.key, 60)
        await ledger.set_aside(one)
    stored = {one.letter.job.key: one for one in await operators.list_letters(Filter(), limit=9)}
    bytes_a = letters[0].size_bytes
    expected = [
        WaitingLetters("q1", Reason.REJECTED, 1, bytes_a, stored["c"].stored_at),
        WaitingLetters("q2", Reason.EXHAUSTED, 1, bytes_a, stored["b"].stored_at),
        WaitingLetters("q2", Reason.REJECTED, 2, 2 * bytes_a, stored["a"].stored_at),
    ]
    assert list(await ledger.waiting()) == expected
    assert before <= expected[2].oldest_at <= await ledger.now()
    # A replay that is under way may yet be called off: the letter still waits.
    assert await operators.begin_replay(stored["a"].id) is not None
    assert list(await ledger.waiting()) == expected
    await operators.finish_replay(stored["a"].id)
    await operators.purge(Filter(queue="q1"))
    expected = [expected[1], WaitingLetters("q2", Reason.REJECTED, 1, bytes_a, stored["d"].stored_at)]
    assert list(await ledger.waiting()) == expected


async def hook_due(ledger: Ledger, make_letter: MakeLetter, *keys: str, **job: object) -> None:
    """Store letters whose hook is due."""
    for key in keys:
        await ledger.claim(key, 60)
        assert await ledger.set_aside(replace(make_letter(key, **job), hook_at=0.0))


async def take(ledger: Ledger, *, limit: int = 9, least_s: float = 60.0, queue: str = QUEUE) -> list[str]:
    """The keys of the letters that are taken for their hook."""
    found = await ledger.take_due_hooks(queue, limit=limit, least_s=least_s, most_s=3600.0)
    return [one.letter.job.key for one in found]


async def test_a_due_hook_is_taken_once(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """A letter stored with a due hook is taken whole, once, in steps of the limit; one stored without is not."""
    await ledger.claim("none", 60)
    await ledger.set_aside(make_letter("none"))
    await hook_due(ledger, make_letter, "a", "b", "c")
    await hook_due(ledger, make_letter, "elsewhere", queue="1234/cn-hangzhou/other")
    assert await take(ledger, limit=2) == ["a", "b"]
    (last,) = await ledger.take_due_hooks(QUEUE, limit=2, least_s=60, most_s=3600)
    (stored,) = await operators.list_letters(Filter(ids=(last.id,)), limit=1)
    assert last == stored
    assert last.letter == replace(make_letter("c"), hook_at=last.letter.hook_at)
    assert await take(ledger) == []
    assert await take(ledger, queue="1234/cn-hangzhou/other") == ["elsewhere"]


async def test_a_taken_hook_is_due_again(ledger: Ledger, make_letter: MakeLetter) -> None:
    """A taken hook is due again after the letter's age within the two bounds, for the next holder too, until done."""
    before = await ledger.now()
    await hook_due(ledger, make_letter, "k")
    (found,) = await ledger.take_due_hooks(QUEUE, limit=9, least_s=0.05, most_s=3600.0)
    assert found.letter.hook_at is not None
    assert before + 0.05 <= found.letter.hook_at <= await ledger.now() + 3600
    await anyio.sleep(1.1 * (found.letter.hook_at - await ledger.now()) + 0.05)
    earliest = await ledger.now()
    (found,) = await ledger.take_due_hooks(QUEUE, limit=9, least_s=0.0, most_s=3600.0)
    assert found.letter.hook_at is not None
    age_s = (found.letter.hook_at - found.stored_at) / 2
    assert earliest <= found.stored_at + age_s <= await ledger.now()
    await anyio.sleep(1.1 * (found.letter.hook_at - await ledger.now()) + 0.05)
    (found,) = await ledger.take_due_hooks(QUEUE, limit=9, least_s=0.0, most_s=0.02)
    await anyio.sleep(0.1)
    (found,) = await ledger.take_due_hooks(QUEUE, limit=9, least_s=0.0, most_s=0.02)
    await ledger.hook_done(found.id)
    await ledger.hook_done(found.id)
    await ledger.hook_done(found.id + 1)
    await anyio.sleep(0.1)
    assert await take(ledger) == []


async def test_a_hook_that_was_taken_survives_its_holder(
    ledger: Ledger, successor: Successor, make_letter: MakeLetter
) -> None:
    """A hook that was due or taken when its holder died is due for the next one."""
    await hook_due(ledger, make_letter, "taken", "due")
    assert await take(ledger, limit=1, least_s=0.05) == ["taken"]
    after = await successor()
    await anyio.sleep(0.2)
    assert sorted(await take(after)) == ["due", "taken"]


async def test_a_replayed_letter_has_no_due_hook(ledger: Ledger, operators: Operators, make_letter: MakeLetter) -> None:
    """A letter whose replay has begun is not taken, nor one that is purged; a cancelled replay leaves it due."""
    await hook_due(ledger, make_letter, "replayed", "cancelled", "purged")
    replayed, cancelled, purged = await operators.list_letters(Filter(), limit=9)
    begun = await operators.begin_replay(cancelled.id)
    assert begun is not None
    await operators.begin_replay(replayed.id)
    await operators.finish_replay(replayed.id)
    await operators.purge(Filter(ids=(purged.id,)))
    assert await take(ledger) == []
    await operators.cancel_replay(begun)
    assert await take(ledger) == ["cancelled"]


async def test_ping(ledger: Ledger) -> None:
    """The ping of a healthy store succeeds every time."""
    await ledger.ping()
    await asyncio.gather(*(ledger.ping() for _ in range(5)))


async def test_closed(ledger: Ledger, make_holder: Callable[[], Ledger]) -> None:
    """A call to a store that is not open is an error; opening and closing twice are not."""
    await ledger.open()
    await ledger.close()
    await ledger.close()
    with pytest.raises(StoreError, match="not open"):
        await ledger.claim("k", 60)
    with pytest.raises(StoreError, match="not open"):
        await make_holder().ping()
    await ledger.open()
    assert await ledger.claim("k", 60) == Claimed()


async def test_closing_waits_for_what_was_accepted(ledger: Ledger, successor: Successor, make_record: Make) -> None:
    """Writes that were asked for before the end are on disk when it is over."""
    for number in range(40):
        await ledger.claim(f"k{number}", 60)
    writes = [asyncio.ensure_future(ledger.done(make_record(f"k{number}"))) for number in range(40)]
    await asyncio.sleep(0)
    await ledger.close()
    assert all(await asyncio.gather(*writes))
    other = await successor()
    assert [await other.claim(f"k{number}", 60) for number in range(40)] == [ended(dead=False)] * 40
