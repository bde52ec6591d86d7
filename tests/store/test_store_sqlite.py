"""The store in a file: its owner, its faults, kill -9, and how few transactions it makes."""

# ruff: noqa: ASYNC240 - a test waits for its own small files

import asyncio
import functools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from consumer.errors import ExitCode, StoreBusyError, StoreError, StoreSchemaError
from consumer.policy import Reason
from consumer.store.ledger import Claimed, DeadLetterRecord, Ended, Filter, JobRecord, StoredJob
from consumer.store.queries import Operators, SqliteEngine
from consumer.store.rows import SCHEMA_REVISION
from consumer.store.session import Session
from consumer.store.sqlite import database as sqlite_database
from consumer.store.sqlite import statements as sqlite_statements
from consumer.store.sqlite.database import SqliteDatabase
from consumer.store.sqlite.files import FileOwner
from consumer.store.sqlite.ledger import SqliteLedger
from consumer.store.sqlite.statements import COUNT_WAITING, FIND_DUE_HOOKS, INSERT_JOB, job_row
from tests.store.records import ended, record, run
from tests.stores import new_file, operators_at

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]

CHILD = """
import asyncio, os, resource, structlog, sys
from pathlib import Path
from consumer.errors import StoreError
from consumer.policy import Reason
from consumer.store.ledger import Claimed, DeadLetterRecord, Ended, JobRecord, RunRecord
from consumer.store.sqlite.ledger import SqliteLedger

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
ledger = SqliteLedger(Path(sys.argv[1]))

def run(key, error):
    return RunRecord(key, "q", "f", "m", None, 1, 1.0, 2.0, "failed", error)

def record(key, **more):
    return JobRecord(key=key, queue="q", kind="k", function="f", message_id="m", **more)
"""


@pytest.fixture
def child(sqlite_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that has a ledger on the test's file; it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD + script, str(sqlite_path)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def test_one_owner(sqlite_path: Path, tmp_path: Path) -> None:
    """A second daemon on the file is refused under each of its names, with the pid of its owner; then it is free."""
    first = SqliteLedger(sqlite_path)
    await first.open()
    other_name = tmp_path / "link.db"
    other_name.symlink_to(sqlite_path)
    for name in (sqlite_path, other_name):
        with pytest.raises(StoreBusyError, match=rf"{sqlite_path} belongs to another daemon \(pid {os.getpid()}\)"):
            await SqliteLedger(name).open()
    assert StoreBusyError.exit_code is ExitCode.TEMPORARY
    await first.close()
    second = SqliteLedger(other_name)
    await second.open()
    await second.close()


async def test_ownership_ends_with_its_process(sqlite_path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    """A daemon that is killed leaves the file to the next, its claims ended, its starts written down."""
    process = child("""
async def main():
    await ledger.open()
    await ledger.claim("k", 3600)
    await ledger.start("k")
    print("claimed", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    ledger = SqliteLedger(sqlite_path)
    with pytest.raises(StoreBusyError, match=rf"pid {process.pid}\)"):
        await ledger.open()
    process.kill()
    process.wait()
    await ledger.open()
    assert await ledger.claim("k", 60) == Claimed(failures=0, starts=1)
    await ledger.close()


async def test_what_was_answered_survives_a_kill(
    sqlite_path: Path, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """Every end that was answered is there after kill -9 in the middle of the work."""
    process = child("""
async def live(key):
    await ledger.claim(key, 60)
    if key.endswith("7"):
        body = b"body of " + key.encode()
        await ledger.set_aside(DeadLetterRecord(job=record(key), reason=Reason.REJECTED, error="e", body=body))
    else:
        await ledger.done(record(key))
    os.write(1, f"{key}\\n".encode())

async def main():
    await ledger.open()
    for first in range(0, 1_000_000, 16):
        await asyncio.gather(*(live(f"key {number}") for number in range(first, first + 16)))
asyncio.run(main())
""")
    assert process.stdout is not None
    answered = [process.stdout.readline().strip() for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    found = await asyncio.gather(*(ledger.claim(key, 60) for key in answered))
    assert list(found) == [Ended(key.endswith("7"), "f") for key in answered]
    letters = await operators_at(str(sqlite_path)).list_letters(Filter(), limit=100_000)
    bodies = [stored.letter.body.decode() for stored in letters]
    assert len(bodies) == len(set(bodies))
    assert {f"body of {key}" for key in answered if key.endswith("7")} <= set(bodies)
    await ledger.close()


def test_a_full_disk(child: Callable[..., subprocess.Popen[str]]) -> None:
    """While the disk is full every write fails with a clear error; afterwards the same object works."""
    process = child("""
async def main():
    await ledger.open()
    await ledger.claim("before", 60)
    assert await ledger.done(record("before"))
    await ledger.claim("k", 60)
    await ledger.claim("failing", 60)
    large = record("k", result="x" * 3_000_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    for _ in range(3):
        try:
            await ledger.done(large)
        except StoreError as error:
            text = str(error)
            assert sys.argv[1] in text and "full" in text and "\\n" not in text, text
        else:
            raise SystemExit("a write beyond the limit went through")
    assert await ledger.claim("before", 60) == Ended(dead=False, function="f")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await ledger.ping()
    assert await ledger.done(large)
    assert await ledger.fail(run("failing", "x")) == 1
    await ledger.close()
    print("went on")
asyncio.run(main())
""")
    assert process.communicate(timeout=15)[0] == "went on\n"
    assert process.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, whom only root can become")
def test_no_right_to_write() -> None:
    """A file or a directory that may not be written is an error with its path."""
    script = (
        CHILD
        + """
os.seteuid(65534)
async def main():
    try:
        await ledger.open()
    except StoreError as error:
        print(error)
asyncio.run(main())
"""
    )
    # Not pytest's folder, which other users can't even pass through.
    with TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        theirs = folder / "theirs"
        theirs.mkdir(mode=0o700)
        (theirs / "readonly.db").touch(mode=0o400)
        for place in (theirs, theirs / "readonly.db"):
            os.chown(place, 65534, -1)
        for path, expected in (
            (folder / "store.db", f"can't make its lock {folder / 'store.db.lock'}: Permission denied; "),
            (theirs / "readonly.db", "Permission denied; give the daemon's user the right to read and write it"),
        ):
            ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
            assert ran.stdout.startswith(f"store {path}: {expected}")


async def test_not_a_directory(tmp_path: Path) -> None:
    """A path through a file is an error, and works once it is a directory."""
    (tmp_path / "file").write_text("x")
    ledger = SqliteLedger(tmp_path / "file" / "store.db")
    with pytest.raises(StoreError, match="Not a directory; see that the folder exists"):
        await ledger.open()
    (tmp_path / "file").unlink()
    await ledger.open()
    await ledger.ping()
    await ledger.close()


def damage(path: Path, name: str, offset: int = 0) -> None:
    """Overwrite the first page of a table or an index from ``offset`` on."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
    with path.open("r+b") as opened:
        opened.seek((rows[0][0] - 1) * 4096 + offset if rows else offset)
        opened.write(b"\xa5" * (4096 - offset))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda path: path.write_bytes(b"my diary " * 1000), "it is no SQLite database, or", id="text"),
        pytest.param(lambda path: damage(path, "sqlite_schema", 100), "it is damaged; restore", id="schema"),
        pytest.param(lambda path: damage(path, "revision"), "it is damaged; restore a backup", id="revision"),
        pytest.param(lambda path: os.truncate(path, 8192), "it is damaged; restore a backup", id="cut off"),
    ],
)
async def test_a_start_on_a_damaged_file(sqlite_path: Path, spoil: Callable[[Path], object], expected: str) -> None:
    """What is no database, or lacks what a start reads, is refused and left as it is; restored, it opens."""
    new_file(sqlite_path).close()
    whole = sqlite_path.read_bytes()
    spoil(sqlite_path)
    damaged = sqlite_path.read_bytes()
    ledger = SqliteLedger(sqlite_path)
    with pytest.raises(StoreError, match=expected):
        await ledger.open()
    assert sqlite_path.read_bytes() == damaged
    sqlite_path.write_bytes(whole)
    await ledger.open()
    await ledger.close()


async def test_a_start_beside_a_damaged_log(sqlite_path: Path) -> None:
    """A log and an index that SQLite did not write are ignored: they hold nothing that was answered."""
    new_file(sqlite_path).close()
    for ending in ("-wal", "-shm"):
        sqlite_path.with_name(f"store.db{ending}").write_bytes(os.urandom(40_000))
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    assert await ledger.claim("k", 60) == Claimed()
    await ledger.close()


async def test_damaged_while_it_is_used(sqlite_path: Path, make_record: MakeRecord) -> None:
    """Nothing is written to a file that was overwritten, though its pages are cached; restored, it is used again."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.close()
    whole = sqlite_path.read_bytes()
    await ledger.open()
    sqlite_path.write_bytes(b"\x00" * len(whole))
    for _ in range(3):
        with pytest.raises(StoreError, match=r"store\.db was overwritten while the daemon used it"):
            await ledger.claim("k", 60)
    sqlite_path.write_bytes(whole)
    await ledger.claim("k", 60)
    assert await ledger.done(make_record("k"))
    await ledger.close()


async def test_a_damaged_page(sqlite_path: Path, make_record: MakeRecord) -> None:
    """A start does not look for damage; from the call that finds it every call fails until the file is restored."""
    new_file(sqlite_path).close()
    whole = sqlite_path.read_bytes()
    damage(sqlite_path, "job_key")
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.ping()
    with pytest.raises(StoreError, match="it is damaged; restore a backup"):
        await ledger.claim("k", 60)
    for call in (ledger.ping, functools.partial(ledger.claim, "k", 60)):
        with pytest.raises(
            StoreError, match=r"store\.db was found damaged while the daemon used it; nothing is written"
        ):
            await call()
    sqlite_path.write_bytes(whole)
    await ledger.claim("k", 60)
    assert await ledger.done(make_record("k"))
    await ledger.close()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_removed_while_it_is_used(sqlite_path: Path, make_record: MakeRecord, *, replaced: bool) -> None:
    """No end in a removed file is confirmed; with the same file back calls succeed."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.claim("k", 60)
    sqlite_path.rename(sqlite_path.with_name("old"))
    if replaced:
        sqlite_path.touch(mode=0o600)
    for _ in range(3):
        with pytest.raises(StoreError, match="store.db was replaced" if replaced else "store.db was removed"):
            await ledger.done(make_record("k"))
    assert sqlite_path.exists() == replaced
    assert not replaced or not sqlite_path.stat().st_size
    sqlite_path.with_name("old").rename(sqlite_path)
    assert await ledger.done(make_record("k"))
    await ledger.close()
    await ledger.open()
    assert await ledger.claim("k", 60) == ended(dead=False)
    await ledger.close()


async def test_a_newer_schema(sqlite_path: Path) -> None:
    """A file of a newer version is refused and not touched, by the daemon and by operators."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.close()
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as connection:
        connection.execute("UPDATE revision SET version_num = '9999'")
    before = sqlite_path.read_bytes()
    with pytest.raises(StoreSchemaError, match=f"of revision 9999, this program those of {SCHEMA_REVISION}"):
        await ledger.open()
    with pytest.raises(StoreSchemaError, match="9999"):
        await operators_at(str(sqlite_path)).count_letters(Filter())
    assert sqlite_path.read_bytes() == before


async def test_a_schema_of_before_the_first_release(sqlite_path: Path) -> None:
    """A file of an early version is refused with how to save its dead letters, and not touched."""
    sqlite_path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.executescript("CREATE TABLE job (id INTEGER PRIMARY KEY); PRAGMA user_version = 5")
    before = sqlite_path.read_bytes()
    for call in (SqliteLedger(sqlite_path).open, lambda: operators_at(str(sqlite_path)).count_letters(Filter())):
        with pytest.raises(
            StoreSchemaError, match=r"before the first release, .* export --out FILE\), then move .*store\.db\* away"
        ):
            await call()
    assert sqlite_path.read_bytes() == before


async def test_another_programs_database(sqlite_path: Path) -> None:
    """A database with tables of another program is refused, and not touched."""
    sqlite_path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    before = sqlite_path.read_bytes()
    with pytest.raises(StoreSchemaError, match="is another program's database; name another file") as caught:
        await SqliteLedger(sqlite_path).open()
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert sqlite_path.read_bytes() == before


async def test_locked_by_another_process(
    sqlite_path: Path, make_record: MakeRecord, make_letter: MakeLetter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that stays is an error; a repeated call succeeds later and is stored once."""
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT_MS", 50)
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    for key in ("done", "fail", "start", "release"):
        await ledger.claim(key, 60)
    await ledger.claim("dead", 60)
    await ledger.set_aside(make_letter("dead"))
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = await asyncio.gather(
            ledger.done(make_record("done")),
            ledger.fail(run("fail", "x")),
            ledger.start("start"),
            ledger.start("release"),
            return_exceptions=True,
        )
        assert [type(answer) for answer in refused] == [StoreError] * 4
        assert "locked" in str(refused[0])
        with pytest.raises(StoreError, match="locked"):
            await operators_at(str(sqlite_path)).purge(Filter())
        assert await ledger.claim("done too", 60) == Claimed()
        other.execute("ROLLBACK")
    assert await ledger.done(make_record("done"))
    assert await ledger.fail(run("fail", "x")) == 1
    assert await ledger.start("start") == 1
    await ledger.release("release")
    assert await ledger.claim("release", 60) == Claimed()
    await ledger.close()


async def test_a_commit_in_doubt(sqlite_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that went through although its commit seemed to fail is found, not stored twice."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    for key in ("first", "second"):
        await ledger.claim(key, 60)
    real = sqlite3.Connection.execute

    class Doubtful(sqlite3.Connection):
        """Commits, and then says that it could not."""

        def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
            cursor = real(self, sql, parameters)  # type: ignore[arg-type]  # handed on as it came
            if sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return cursor

    writer = ledger._writer
    assert writer is not None
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Doubtful))
        # The next call opens the file again. SQLite would remove the log with the last connection.
        before, writer._connection = writer._connection, None
        with pytest.raises(StoreError, match="disk I/O error"):
            await ledger.done(make_record("first"))
    assert await ledger.done(make_record("first"))
    assert await ledger.done(make_record("second"))
    assert before is not None
    jobs = await operators_at(str(sqlite_path)).list_jobs(Filter(), limit=9)
    assert [job.record.key for job in jobs] == ["second", "first"]
    await ledger.close()


async def test_a_failing_prune_fails_alone(sqlite_path: Path, make_record: MakeRecord) -> None:
    """A prune that the file can't carry out takes no end of its batch with it, wherever it stands in the batch."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    for key in ("before", "after"):
        await ledger.claim(key, 60)
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as other:
        # What SQLite says of every row's removal is then about the file, as with a damaged page: OperationalError.
        other.execute("CREATE TRIGGER broken BEFORE DELETE ON job BEGIN INSERT INTO nowhere VALUES (1); END")
    answers = await asyncio.gather(
        ledger.done(make_record("before")),
        ledger.prune(older_than_s=0, limit=100),
        ledger.done(make_record("after")),
        ledger.ping(),
        return_exceptions=True,
    )
    assert isinstance(answers[1], StoreError)
    assert "nowhere" in str(answers[1])
    assert [answers[0], *answers[2:]] == [True, True, None]
    assert await ledger.claim("after", 60) == ended(dead=False)
    await ledger.close()


async def test_few_transactions(sqlite_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims and releases of many tasks write nothing; their ends share transactions."""
    statements: list[str] = []

    class Traced(sqlite3.Connection):
        """Records every statement."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(statements.append)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Traced))
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.claim("first", 60)
    statements.clear()
    await asyncio.gather(*(ledger.claim(f"k{number}", 60) for number in range(100)))
    await asyncio.gather(*(ledger.release(f"k{number}") for number in range(50)))
    assert not [text for text in statements if not text.startswith("SELECT")]
    # Whether any has ended or failed, 64 keys at a time.
    assert len(statements) == 4
    await asyncio.gather(*(ledger.done(make_record(f"k{number}")) for number in range(50, 100)))
    assert statements.count("COMMIT") == 1
    assert len([text for text in statements if text.startswith("INSERT INTO job")]) == 50
    await ledger.close()


def test_the_pragmas(sqlite_path: Path) -> None:
    """What is committed is on disk: write-ahead log, every commit synced."""
    with closing(new_file(sqlite_path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_step_of_pruning_reads_an_index(sqlite_path: Path) -> None:
    """No step of pruning reads a whole table."""
    with closing(new_file(sqlite_path)) as connection:
        statements = [
            ("DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY id LIMIT ?) AND stored_at <= ?", (1, 2)),
            ("SELECT id FROM letter WHERE replay = 'replayed' AND replayed_at <= ?", (1,)),
        ]
        for statement, values in statements:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))
            assert "SEARCH" in plan


async def test_equal_hashes_do_no_harm(
    sqlite_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys of one hash are still two keys."""
    monkeypatch.setattr(sqlite_statements, "key_hash", lambda _key: 7)
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.claim("a", 60)
    await ledger.done(make_record("a"))
    assert await ledger.claim("b", 60) == Claimed()
    assert await ledger.claim("a", 60) == ended(dead=False)
    assert not await ledger.set_aside(DeadLetterRecord(make_record("a"), reason=Reason.REJECTED, error="e", body=b""))
    assert await ledger.done(make_record("b"))
    await ledger.close()


def test_a_process_that_forgets_to_close(child: Callable[..., subprocess.Popen[str]]) -> None:
    """A loop or a process that ends without closing the store does not hang."""
    process = child("""
async def main():
    await ledger.open()
    asyncio.ensure_future(ledger.ping())
    await asyncio.sleep(0)
asyncio.run(main())
print("over")
""")
    assert process.communicate(timeout=15)[0] == "over\n"
    assert process.returncode == 0


async def test_opening_that_is_cancelled(sqlite_path: Path) -> None:
    """A cancelled open leaves no owner and no thread behind."""
    ledger = SqliteLedger(sqlite_path)
    opening = asyncio.ensure_future(ledger.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for _ in range(200):
        if not [thread for thread in threading.enumerate() if thread.name == "mns-consumer-store"]:
            break
        await asyncio.sleep(0.01)
    await ledger.open()
    await ledger.close()


def test_a_lock_that_is_removed_is_no_lock(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock's file that vanishes between opening and locking is an error; the next start makes it again."""
    sqlite_path.parent.mkdir()
    lock = FileOwner._lock

    def hasty(owner: FileOwner) -> int:
        descriptor = lock(owner)
        owner._lock_path.unlink()
        return descriptor

    owner = FileOwner(sqlite_path)
    with monkeypatch.context() as patch:
        patch.setattr(FileOwner, "_lock", hasty)
        with pytest.raises(StoreError, match=r"store\.db\.lock was removed while it was locked; start again"):
            owner.acquire()
    owner.acquire()
    owner.acquire()
    with pytest.raises(StoreBusyError):
        FileOwner(sqlite_path).acquire()
    owner.release()
    owner.release()
    with pytest.raises(StoreError, match="No such file or directory; see that the folder exists"):
        FileOwner(sqlite_path.parent / "missing" / "store.db").acquire()


def test_read_only_in_plain_words(sqlite_path: Path) -> None:
    """What SQLite says of a file that may only be read is put into plain words."""
    new_file(sqlite_path).close()
    with closing(sqlite3.connect(f"file:{sqlite_path}?mode=ro", uri=True)) as connection:
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("DELETE FROM job")
        text = str(sqlite_database.explain(sqlite_path, caught.value))
    assert text.startswith(f"store {sqlite_path}: it can be read but not written; give")
    assert sqlite_database.spoils_connection(caught.value)


async def test_the_last_row_of_a_key_counts(sqlite_path: Path) -> None:
    """A run that an operator's cancelled replay overtook adds a second row; claims and operators follow the last."""
    with closing(new_file(sqlite_path)) as connection:
        for dead in (True, False):
            row = sqlite_statements.job_row(record("k"), dead=dead, holder="", now=1.0)
            connection.execute(sqlite_statements.INSERT_JOB, row)
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    assert await ledger.claim("k", 60) == ended(dead=False)
    await ledger.close()

    async def find(session: Session) -> StoredJob | None:
        return await operators._find_ended(session, "k")

    operators = Operators(SqliteDatabase(sqlite_path), SqliteEngine())
    found = await SqliteDatabase(sqlite_path).run(find)
    assert found is not None
    assert not found.dead


def test_claims_read_an_index(sqlite_path: Path) -> None:
    """Whether a key has ended is found without reading the table."""
    with closing(new_file(sqlite_path)) as connection:
        statements = [sqlite_statements._FIND_ENDED, "SELECT key FROM job WHERE key_hash IN (?,?)"]
        for statement in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (1, 2))]
            assert plan[0] == "SEARCH job USING INDEX job_key (key_hash=?)"


def test_counting_letters_reads_their_index(sqlite_path: Path) -> None:
    """Neither bodies nor rows are read for it."""
    with closing(new_file(sqlite_path)) as connection:
        ((*_, step),) = connection.execute(f"EXPLAIN QUERY PLAN {COUNT_WAITING}").fetchall()
    assert step == "SCAN letter USING COVERING INDEX letter_waiting"


def test_due_hooks_read_their_index(sqlite_path: Path) -> None:
    """Looking for due hooks reads none of the letters that have none, and sorts nothing."""
    with closing(new_file(sqlite_path)) as connection:
        ((*_, step),) = connection.execute(f"EXPLAIN QUERY PLAN {FIND_DUE_HOOKS}", ("q", 1.0, 4)).fetchall()
    assert step == "SEARCH letter USING INDEX letter_hook (queue=? AND hook_at<?)"


async def test_times_are_found_after_the_clock_was_set_back(sqlite_path: Path, make_letter: MakeLetter) -> None:
    """Rows that stand later than rows of a later time, by up to a day, are found by since and until all the same."""
    times = [100_000.0 + at_s for at_s in (0, 10, 86_000, 86_010, 20, 30, 50_000, 86_300, 90_000)]
    with closing(new_file(sqlite_path)) as connection:
        for number, stored_at in enumerate(times):
            row = (*job_row(make_letter(f"k{number}").job, dead=True, holder="", now=stored_at),)
            connection.execute(INSERT_JOB, row)
    operators = operators_at(str(sqlite_path))
    for since in [None, *times]:
        for until in [None, *times, times[-1] + 1]:
            if since is None or until is None or since < until:
                jobs = await operators.list_jobs(Filter(since=since, until=until), limit=20)
                found = [one for one in times if (since or 0) <= one and (until is None or one < until)]
                assert [job.stored_at for job in jobs] == found[::-1]
