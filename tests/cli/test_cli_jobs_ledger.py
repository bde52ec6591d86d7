"""jobs list, jobs show: the ended jobs of the ledger, on both engines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.cli.letters_rig import ACCOUNT, fill, letter, record
from tests.postgres import postgres_store
from tests.store.records import run
from tests.stores import ledger_at, operators_at

Cli = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The same as ``target`` on SQLite alone, for what does not hang on the engine."""
    target = str(tmp_path / "one.db")
    fill(target, [letter("dead")], [record("first"), record("second", queue="other", function="VideoH2V")])
    return target


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store with two jobs that are done, in two queues, and one that is dead."""
    if request.param == "sqlite":
        target = str(tmp_path / "store.db")
        fill(target, [letter("dead")], [record("first"), record("second", queue="other", function="VideoH2V")])
        yield target
    else:
        with postgres_store() as target:
            fill(target, [letter("dead")], [record("first"), record("second", queue="other", function="VideoH2V")])
            yield target


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        pytest.param([], ["J-second", "J-first", "J-dead"], id="the latest first"),
        pytest.param(["--limit", "1"], ["J-second"], id="limit"),
        pytest.param(["--limit", "0"], ["J-second", "J-first", "J-dead"], id="no limit"),
        pytest.param(["--function", "VideoH2V"], ["J-second"], id="function"),
        pytest.param(["--queue", f"{ACCOUNT}/other"], ["J-second"], id="queue"),
        pytest.param(["--job-id", "J-first"], ["J-first"], id="job"),
        pytest.param(["--ended", "dead"], ["J-dead"], id="dead"),
        pytest.param(["--state", "dead"], ["J-dead"], id="state"),
        pytest.param(["--ended", "done", "--limit", "1"], ["J-second"], id="done"),
        pytest.param(["--since", "1h"], ["J-second", "J-first", "J-dead"], id="since"),
        pytest.param(["--since", "2999-01-01"], [], id="since then"),
        pytest.param(["--until", "1h"], [], id="until"),
    ],
)
def test_list(cli: Cli, store: str, flags: list[str], ids: list[str]) -> None:
    """Each flag selects its jobs, as JSON lines and as a table."""
    ran = cli("jobs", "list", "--store", store, "--json", *flags)
    assert ran.code == 0
    assert [json.loads(line)["job_id"] for line in ran.out.splitlines()] == ids
    table = cli("jobs", "list", "--store", store, *flags)
    assert all(job_id in table.out for job_id in ids)
    assert len(table.out.splitlines()) == (len(ids) + 1 if ids else 0)
    assert ("no job that has ended matches" in table.err) == (not ids)
    assert ("say --limit for more" in table.err) == ("1" in flags)


def test_list_on_each_engine(cli: Cli, target: str) -> None:
    """All flags together select the jobs that fit each of them."""
    flags = ("--function", "VideoH2V", "--queue", f"{ACCOUNT}/other", "--job-id", "J-second", "--since", "1h")
    ran = cli("jobs", "list", "--store", target, "--json", *flags, "--until", "2999-01-01", "--ended", "done")
    assert [json.loads(line)["job_id"] for line in ran.out.splitlines()] == ["J-second"]


def test_list_of_the_dead(cli: Cli, target: str) -> None:
    """A dead job is listed with the reason, error and number of its letter; a done one has none of them."""
    lines = cli("jobs", "list", "--store", target, "--json").out.splitlines()
    why = {one["job_id"]: (one["dead_letters"], one["reason"], one["error"]) for one in map(json.loads, lines)}
    none: tuple[list[int], None, None] = ([], None, None)
    dead = ([1], "rejected", "expected this, came that")
    assert why == {"J-first": none, "J-second": none, "J-dead": dead}
    (line,) = cli("jobs", "list", "--store", target, "--state", "dead").out.splitlines()[1:]
    assert all(word in line for word in ("[1]", "rejected", "expected this, came that"))


def test_show(cli: Cli, target: str) -> None:
    """One job is shown with all its fields, and with the numbers of its dead letters."""
    ran = cli("jobs", "show", "J-dead", "--store", target)
    assert ran.code == 0
    assert '{"film": 7}' in ran.out
    assert re.search("^state +dead$", ran.out, re.MULTILINE)
    assert "dead letter 1 (rejected, set_aside): mns-consumer dead-letters show 1" in ran.err
    found = json.loads(cli("jobs", "show", "J-dead", "--store", target, "--json").out)
    assert (found["state"], found["attempt"], found["dead_letters"]) == ("dead", 3, [1])
    assert found["enqueued_at"] == "2023-11-14T22:13:20.000Z"
    assert json.loads(cli("jobs", "show", "J-first", "--store", target, "--json").out)["result"] == {"stills": 5}


def test_history(cli: Cli, target: str) -> None:
    """All runs of a job are shown, the oldest first, and the latest traceback below; each has its own as JSON."""
    found = json.loads(cli("jobs", "show", "J-dead", "--store", target, "--json").out)["history"]
    assert [(run["attempt"], run["result"], run["error"]) for run in found] == [
        (1, "failed", "failed"),
        (3, "rejected", "expected this, came that"),
    ]
    assert [run["traceback"] for run in found] == ["Traceback: failed", "Traceback: here"]
    assert [found[1][name] for name in ("started_at", "ended_at")] == [
        "2023-11-14T22:13:21.000Z",
        "2023-11-14T22:13:22.000Z",
    ]
    shown = cli("jobs", "show", "J-dead", "--store", target).out
    assert re.search(r"^attempt +started_at +seconds +result +error$", shown, re.MULTILINE)
    assert re.search(r"^3 +2023-11-14T22:13:21 +1\.0 +rejected +expected this, came that$", shown, re.MULTILINE)
    assert shown.endswith("\n\n  Traceback: here\n")
    (done,) = json.loads(cli("jobs", "show", "J-first", "--store", target, "--json").out)["history"]
    assert (done["attempt"], done["result"], done["error"], done["traceback"]) == (3, "done", None, None)


async def test_the_next_try(cli: Cli, target: str) -> None:
    """A job that waits is listed with the time of its next try, by its function too, and with its runs when shown."""
    ledger = ledger_at(target)
    await ledger.open()
    key = f"{ACCOUNT}/jobs|IProduction|J-waits"
    about = {"job_id": "J-waits", "queue": f"{ACCOUNT}/jobs", "result": "waiting", "retry_at": 1_700_000_600.0}
    await ledger.claim(key, 600)
    await ledger.release(key, run(key, "too early", **about))
    await ledger.close()

    async def ask(*argv: str) -> str:
        ran = await anyio.to_thread.run_sync(partial(cli, *argv, "--store", target))
        return str(ran.out)

    for flags, count in ((["--function", "Cover"], 1), (["--function", "VideoH2V"], 0)):
        lines = (await ask("jobs", "list", "--state", "retrying", "--json", *flags)).splitlines()
        assert len(lines) == count
    (found,) = [json.loads(line) for line in (await ask("jobs", "list", "--state", "retrying", "--json")).splitlines()]
    assert (found["function"], found["attempt"], found["error"]) == ("Cover", 1, "too early")
    assert found["next_try_at"] == "2023-11-14T22:23:20.000Z"
    assert "2023-11-14" in await ask("jobs", "list", "--state", "retrying")
    shown = json.loads(await ask("jobs", "show", "J-waits", "--json"))
    assert [(one["result"], one["error"]) for one in shown.pop("history")] == [("waiting", "too early")]
    assert shown == found | {"dead_letters": []}


async def test_jobs_that_have_not_ended(target: str, process: Cli) -> None:
    """A job that has failed is retrying, with attempt and error; PostgreSQL also knows which run, and until when."""
    ledger = ledger_at(target)
    await ledger.open()
    for name in ("failed", "released", "runs too", "runs"):
        await ledger.claim(f"{ACCOUNT}/jobs|IProduction|J-{name}", 600)
    await ledger.fail(run(f"{ACCOUNT}/jobs|IProduction|J-failed", "ValueError: no such film", queue=f"{ACCOUNT}/jobs"))
    await ledger.release(f"{ACCOUNT}/jobs|IProduction|J-released")

    async def ask(*argv: str) -> Any:
        return await anyio.to_thread.run_sync(partial(process, *argv, "--store", target))

    # The limit counts the jobs of that state alone: later ones that run hide none.
    ran = await ask("jobs", "list", "--state", "retrying", "--limit", "1", "--json")
    (found,) = [json.loads(line) for line in ran.out.splitlines()]
    assert (found["job_id"], found["queue"], found["attempt"]) == ("J-failed", f"{ACCOUNT}/jobs", 2)
    assert (found["state"], found["error"]) == ("retrying", "ValueError: no such film")
    assert "no such film" in (await ask("jobs", "list", "--state", "retrying")).out
    shown = json.loads((await ask("jobs", "show", "J-failed", "--json")).out)
    (attempt,) = shown.pop("history")
    assert (attempt["attempt"], attempt["error"]) == (1, "ValueError: no such film")
    assert shown == found | {"dead_letters": []}
    for flags, count in ((["--job-id", "J-failed"], 1), (["--job-id", "J-fail"], 0), (["--queue", "9/r/q"], 0)):
        ran = await ask("jobs", "list", "--state", "retrying", "--json", *flags)
        assert len(ran.out.splitlines()) == count
    ran = await ask("jobs", "list", "--state", "running", "--limit", "1", "--json")
    if "://" in target:
        (found,) = [json.loads(line) for line in ran.out.splitlines()]
        assert (found["job_id"], found["state"], found["attempt"]) == ("J-runs", "running", 1)
        assert len(found["holder"]) == 32
        assert datetime.fromisoformat(found["held_until"]) > datetime.now(UTC) + timedelta(seconds=500)
    else:
        assert (ran.code, ran.out) == (2, "")
        assert "the daemon of a store in a file is asked" in ran.err
    await ledger.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--state", "running", "--since", "1h"], "expected no other flag than --queue, --function and --job-id"),
        (["--state", "dead", "--ended", "dead"], "expected either --state or --ended"),
    ],
)
def test_states_and_other_flags(cli: Cli, store: str, flags: list[str], said: str) -> None:
    """Flags that the open jobs have no field for are refused."""
    ran = cli("jobs", "list", "--store", store, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


async def test_show_by_its_letter(store: str, process: Cli) -> None:
    """A job whose key was opened again, and that has not ended since, is shown by its dead letter."""
    await operators_at(store).begin_replay(1)
    ran = await anyio.to_thread.run_sync(process, "jobs", "show", "J-dead", "--store", store, "--json")
    assert ran.code == 0
    assert (json.loads(ran.out)["id"], json.loads(ran.out)["state"]) == (1, "replaying")


@pytest.mark.parametrize(
    ("job_id", "printed"),
    [
        ("J-none", "no job 'J-none' is known here: none with this id has ended"),
        ("", "JOBID is empty"),
        ("J" * 65, "JOBID has 65 characters: expected at most 64"),
        ("J\x00", "expected one line without control characters"),
    ],
)
def test_show_unknown(cli: Cli, store: str, job_id: str, printed: str) -> None:
    """A job that the ledger does not know, or can't know, ends with 2."""
    ran = cli("jobs", "show", job_id, "--store", store)
    assert (ran.code, ran.out) == (2, "")
    assert printed in ran.err


def test_more_than_a_page(cli: Cli, tmp_path: Path) -> None:
    """Every job is listed, once, where there are more than one page of them."""
    target = str(tmp_path / "store.db")
    fill(target, done=[record(str(number)) for number in range(205)])
    ran = cli("jobs", "list", "--store", target, "--json", "--limit", "0")
    ids = [json.loads(line)["job_id"] for line in ran.out.splitlines()]
    assert ids == [f"J-{number}" for number in reversed(range(205))]


def test_no_store(cli: Cli, tmp_path: Path) -> None:
    """Without a store it says so, and makes none."""
    ran = cli("jobs", "list", "--store", str(tmp_path / "none.db"))
    assert ran.code == 1
    assert "there is no such file" in ran.err
    assert not (tmp_path / "none.db").exists()
