"""One daemon owns a file under all its names, as long as its files are those that it opened."""

# ruff: noqa: ASYNC221, ASYNC240 - a test waits for its own small files and processes

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumer.errors import ExitCode, StoreBusyError, StoreDiedError, StoreError, StoreLostError, StoreUnsafeError
from consumer.store.commands import Command
from consumer.store.ledger import Claimed, Filter
from consumer.store.open import refusal
from consumer.store.sqlite import files as sqlite_files
from consumer.store.sqlite import ledger as sqlite_ledger
from consumer.store.sqlite.files import FileOwner
from consumer.store.sqlite.ledger import SqliteLedger
from consumer.store_address import parse_store_address
from tests.store.records import ended, record
from tests.stores import operators_at

OWN = """
import asyncio, multiprocessing, os, structlog, sys, time
from pathlib import Path
from consumer.store.sqlite.ledger import SqliteLedger

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

def fork():
    if pid := os.fork():
        return pid
    time.sleep(60)
    os._exit(0)

def start_process():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    return process.pid

async def main():
    ledger = SqliteLedger(Path(sys.argv[1]))
    await ledger.open()
    print(eval(sys.argv[2]), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""

TRY = """
import asyncio, sys
from pathlib import Path
from consumer.errors import StoreError
from consumer.store.sqlite.ledger import SqliteLedger

async def main():
    try:
        await SqliteLedger(Path(sys.argv[1])).open()
    except StoreError as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""


@pytest.fixture
def own(sqlite_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start a process that owns the test's file; returns it, and the value of an expression that it evaluates."""
    started: list[subprocess.Popen[str]] = []

    def start(expression: str = "os.getpid()") -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWN, str(sqlite_path), expression], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()
        process.wait()


@pytest.fixture
async def owned(sqlite_path: Path) -> SqliteLedger:
    """A ledger on the test's file in which ``k`` is done."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await end(ledger, "k")
    return ledger


async def end(ledger: SqliteLedger, key: str) -> None:
    assert await ledger.claim(key, 60) == Claimed()
    assert await ledger.done(record(key))


def tries(path: Path) -> str:
    """The error of another process that opens the store."""
    return subprocess.run([sys.executable, "-c", TRY, path], capture_output=True, text=True, check=True).stdout


async def test_a_hard_link_is_the_same_store(
    sqlite_path: Path, tmp_path: Path, own: Callable[..., tuple[subprocess.Popen[str], str]]
) -> None:
    """A daemon on another name of an owned file is refused, and with no owner for the names."""
    process, _ = own()
    other = tmp_path / "other.db"
    os.link(sqlite_path, other)
    with pytest.raises(StoreBusyError, match=r"belongs to another daemon \(under another name of the file;"):
        await SqliteLedger(other).open()
    process.kill()
    process.wait()
    for name in (other, sqlite_path):
        with pytest.raises(StoreUnsafeError, match="the file has 2 names"):
            await SqliteLedger(name).open()
        with pytest.raises(StoreUnsafeError, match="the file has 2 names"):
            await operators_at(str(name)).list_jobs(Filter(), limit=1)
        assert "2 names" in (refusal(parse_store_address(str(name))) or "")
    other.unlink()
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.close()


async def test_a_bind_mount_is_the_same_store(owned: SqliteLedger, sqlite_path: Path, tmp_path: Path) -> None:
    """A daemon that has the file mounted elsewhere, as a container may, is refused."""
    other = tmp_path / "container" / "store.db"
    other.parent.mkdir(mode=0o700)
    other.touch(mode=0o600)
    script = 'mount --bind "$1" "$2" || exit 77; exec "$3" -c "$4" "$2"'
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sqlite_path, other, sys.executable, TRY],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    assert tried.stdout.startswith(f"StoreBusyError store {other} belongs to another daemon (under another name")
    await owned.close()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_a_lock_that_is_removed_lets_no_other_daemon_in(
    owned: SqliteLedger, sqlite_path: Path, *, replaced: bool
) -> None:
    """The database stays locked; the owner notices before its next call and locks a new file in that place."""
    lock = sqlite_path.with_name("store.db.lock")
    lock.unlink()
    if replaced:
        lock.touch(mode=0o600)
    assert tries(sqlite_path).startswith("StoreBusyError")
    with pytest.raises(StoreError, match=r"its lock .* was removed or replaced .*; it was made again"):
        await owned.claim("other", 60)
    await end(owned, "other")
    assert lock.read_text(encoding="ascii") == f"{os.getpid()}\na ledger was made here\n"
    assert f"(pid {os.getpid()});" in tries(sqlite_path)
    await owned.close()


async def test_a_lock_that_is_removed_where_it_is_the_only_one(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without the second lock nothing is written until the very same lock is back."""
    monkeypatch.setattr(FileOwner, "_lock_inode", lambda _owner, _database: False)
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    lock = sqlite_path.with_name("store.db.lock")
    lock.rename(lock.with_name("away"))
    for _ in range(2):
        with pytest.raises(StoreError, match="another daemon may have taken the store"):
            await ledger.claim("k", 60)
    lock.with_name("away").rename(lock)
    await end(ledger, "k")
    await ledger.close()


async def test_a_file_system_that_mixes_both_kinds_of_locks(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second lock would block SQLite it is given up with a log line, and the store works."""

    def refuse(*_: object) -> None:
        raise BlockingIOError

    events: list[str] = []
    log = SimpleNamespace(warning=lambda event, **_: events.append(event))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_files, "log", log)
        patch.setattr(fcntl, "lockf", refuse)
        ledger = SqliteLedger(sqlite_path)
        await ledger.open()
    assert events == [
        "the file system can't lock the store beside SQLite; only the lock file keeps a second daemon out"
    ]
    database = os.open(sqlite_path, os.O_RDONLY)
    fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await end(ledger, "k")
    await ledger.close()
    os.close(database)


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db-shm"])
async def test_nothing_is_written_without_each_of_the_files(
    owned: SqliteLedger, sqlite_path: Path, name: str, *, replaced: bool
) -> None:
    """While a file is gone every call fails and no new file is made; with the same file back calls succeed."""
    file, away = sqlite_path.with_name(name), sqlite_path.with_name("away")
    file.rename(away)
    if replaced:
        shutil.copy(away, file)
    before = away.stat()
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{name} was re{'placed' if replaced else 'moved'}"):
            await owned.claim("other", 60)
    assert file.exists() == replaced
    assert (away.stat().st_mtime_ns, away.stat().st_size) == (before.st_mtime_ns, before.st_size)
    away.rename(file)
    await end(owned, "other")
    await owned.close()


async def test_a_folder_that_is_moved_away(owned: SqliteLedger, sqlite_path: Path) -> None:
    """The error names the database, not its lock; nothing is made in a new folder; with the old one back it works."""
    folder = sqlite_path.parent
    folder.rename(folder.with_name("away"))
    folder.mkdir(mode=0o700)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"store\.db was removed"):
            await owned.claim("other", 60)
    folder.rmdir()
    folder.with_name("away").rename(folder)
    await end(owned, "other")
    await owned.close()


@pytest.mark.parametrize(
    ("name", "share"),
    [("store.db", 0), ("store.db", 0.5), ("store.db-wal", 0), ("store.db-wal", 0.9), ("store.db-shm", 0)],
)
async def test_nothing_is_written_to_a_file_that_was_cut_off(
    owned: SqliteLedger, sqlite_path: Path, name: str, share: float
) -> None:
    """A truncated file is noticed before the next call; whole again in its place, it is used again."""
    file = sqlite_path.with_name(name)
    whole = file.read_bytes()
    os.truncate(file, int(len(whole) * share))
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{name} was truncated"):
            await owned.claim("other", 60)
    assert file.stat().st_size == int(len(whole) * share)
    with file.open("r+b") as again:
        again.write(whole)
    await end(owned, "other")
    await owned.close()


async def test_a_file_that_is_cut_off_in_the_middle_of_a_call(
    owned: SqliteLedger, sqlite_path: Path, child_lists: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that broke on it is replaced only when the file is whole; then other processes read again too."""
    wal = sqlite_path.with_name("store.db-wal")
    whole = wal.read_bytes()

    def fault(*_: object) -> None:
        os.truncate(wal, 0)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        assert owned._writer is not None
        patch.setattr(owned._writer._statements, "read", fault)
        with pytest.raises(StoreError, match="disk I/O error"):
            await owned.claim("other", 60)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"store\.db-wal was truncated"):
            await owned.claim("other", 60)
    with wal.open("r+b") as again:
        again.write(whole)
    for number in range(3):
        await end(owned, f"after {number}")
        child_lists()
    await owned.close()


async def test_what_other_processes_may_do_is_no_trouble(owned: SqliteLedger, sqlite_path: Path) -> None:
    """A log that another process empties, and a database that it shrinks, are no errors."""
    for number in range(200):
        await end(owned, f"some {number}")
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2]).fetchall()"
    wal = sqlite_path.with_name("store.db-wal")
    before = 0
    for number, statement in enumerate(
        ("PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM job", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
    ):
        before = sqlite_path.stat().st_size
        subprocess.run([sys.executable, "-c", script, sqlite_path, statement], check=True)
        if "TRUNCATE" in statement:
            assert not wal.stat().st_size
        await end(owned, f"after {number}")
    assert sqlite_path.stat().st_size < before
    await owned.close()


async def test_operators_beside_the_daemon_leave_its_log_alone(
    owned: SqliteLedger, sqlite_path: Path, child_lists: Callable[[], None]
) -> None:
    """SQLite's own locks stay: a command that ends never counts as the last user and removes the log."""
    companions = [sqlite_path.with_name(f"store.db{ending}") for ending in ("-wal", "-shm")]
    before = [path.stat().st_ino for path in companions]
    for number in range(3):
        child_lists()
        await end(owned, f"after {number}")
    assert [path.stat().st_ino for path in companions] == before
    await owned.close()


@pytest.fixture
def child_lists(sqlite_path: Path) -> Callable[[], None]:
    """List and write in another process, as ``mns-consumer dead-letters`` does."""
    script = """
import asyncio, sys
from pathlib import Path
from consumer.store.ledger import Filter
from consumer.store.open import make_operators
from consumer.store_address import SqliteAddress
operators = make_operators(SqliteAddress(Path(sys.argv[1])))
assert asyncio.run(operators.list_jobs(Filter(), limit=9))
"""

    def run() -> None:
        subprocess.run([sys.executable, "-c", script, sqlite_path], check=True)

    return run


async def test_a_log_that_was_removed_is_saved_by_an_orderly_stop(owned: SqliteLedger, sqlite_path: Path) -> None:
    """Its content is still open, and is written back into the database when the store is closed."""
    sqlite_path.with_name("store.db-wal").unlink()
    with pytest.raises(StoreError, match=r"store\.db-wal was removed"):
        await owned.ping()
    await owned.close()
    await owned.open()
    assert await owned.claim("k", 60) == ended(dead=False)
    await owned.close()


async def test_a_log_that_others_put_in_place_is_left_to_them(owned: SqliteLedger, sqlite_path: Path) -> None:
    """A log that was restored under a running daemon is still there when that one has ended."""
    wal = sqlite_path.with_name("store.db-wal")
    wal.unlink()
    wal.write_bytes(b"restored")
    await owned.close()
    assert wal.read_bytes() == b"restored"


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db-shm"])
async def test_files_that_were_cut_off_are_left_as_they_are(owned: SqliteLedger, sqlite_path: Path, name: str) -> None:
    """The end of the daemon writes nothing back into a damaged store: the rest may be repairable."""
    os.truncate(sqlite_path.with_name(name), 0)
    files = [sqlite_path.with_name(f"store.db{ending}") for ending in ("", "-wal")]
    before = [file.read_bytes() for file in files]
    await owned.close()
    assert [file.read_bytes() for file in files] == before


def without_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (x); DROP TABLE t")


def leave_the_log(path: Path) -> None:
    """As after a kill: the log still holds what the daemon wrote; then file and lock are removed."""
    path.with_name("store.db-wal").write_bytes(b"frames")
    path.with_name("store.db.lock").unlink()
    path.unlink()


@pytest.mark.parametrize(
    ("lose", "expected"),
    [
        pytest.param(Path.unlink, "the file is missing, but .*lock says that a ledger was made there", id="missing"),
        pytest.param(lambda path: os.truncate(path, 0), "the file is empty, but .*lock says", id="empty"),
        pytest.param(without_tables, "the file has no tables, but .*lock says", id="another file"),
        pytest.param(leave_the_log, "the file is missing, but .*-wal holds a part of its ledger", id="log alone"),
    ],
)
async def test_a_lost_ledger_is_not_replaced_by_a_new_one(
    owned: SqliteLedger, sqlite_path: Path, lose: Callable[[Path], None], expected: str
) -> None:
    """Daemon, operators and a look beforehand refuse it and change nothing, until lock and log are removed too."""
    await owned.close()
    lose(sqlite_path)
    before = {path.name: path.stat().st_size for path in sqlite_path.parent.iterdir() if path.suffix != ".lock"}
    text = (
        rf"{expected}.*; put the file back, or restore a backup; or remove .*lock \(and .*-wal\) to begin a new ledger"
    )
    with pytest.raises(StoreLostError, match=text) as caught:
        await owned.open()
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreLostError, match=expected):
        await operators_at(str(sqlite_path)).list_jobs(Filter(), limit=1)
    if "no tables" not in expected:
        assert refusal(parse_store_address(str(sqlite_path))) == str(caught.value)
    assert before == {path.name: path.stat().st_size for path in sqlite_path.parent.iterdir() if path.suffix != ".lock"}
    for path in sqlite_path.parent.iterdir():
        path.unlink()
    await owned.open()
    assert await owned.claim("k", 60) == Claimed()
    await owned.close()


async def test_a_start_that_was_killed_before_it_made_the_tables(sqlite_path: Path) -> None:
    """It leaves an empty file and a lock without the mark: operators get an error, the next start makes the ledger."""
    owner = FileOwner(sqlite_path)
    sqlite_path.parent.mkdir(mode=0o700)
    owner.acquire()
    owner.release()
    with pytest.raises(StoreError, match="it holds no ledger; the daemon makes one when it first runs"):
        await operators_at(str(sqlite_path)).list_jobs(Filter(), limit=1)
    assert not sqlite_path.stat().st_size
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    await ledger.close()


@pytest.mark.parametrize("make_child", ["fork()", "start_process()"])
async def test_a_forked_child_does_not_keep_the_store(
    sqlite_path: Path, own: Callable[..., tuple[subprocess.Popen[str], str]], make_child: str
) -> None:
    """A daemon that is killed leaves the store to the next, also while a process that a handler forked still runs."""
    process, child = own(make_child)
    try:
        ledger = SqliteLedger(sqlite_path)
        with pytest.raises(StoreBusyError, match=f"pid {process.pid}"):
            await ledger.open()
        process.kill()
        process.wait()
        # The child closes its copies as soon as it runs.
        for _ in range(100):
            with suppress(StoreBusyError):
                await ledger.open()
                break
            await asyncio.sleep(0.02)
        os.kill(int(child), 0)
        await end(ledger, "k")
        await ledger.close()
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


async def test_a_disk_that_can_not_be_read_does_not_end_the_writer(
    owned: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails to read costs calls until it works again: the thread lives on."""
    read = os.pread
    fails = False

    def pread(descriptor: int, size: int, place: int) -> bytes:
        if fails:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, size, place)

    def fail(_connection: sqlite3.Connection) -> None:
        nonlocal fails
        fails = True
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(StoreError, match="disk I/O error"):
        await owned._keep_up(fail)
    with pytest.raises(StoreError, match=r"could not be read \(Input/output error\)"):
        await owned.ping()
    fails = False
    await owned.ping()


async def test_a_writer_thread_that_dies_fails_every_call(
    owned: SqliteLedger, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting, later and watching callers get an error; the file is free for the next daemon."""
    watching = asyncio.ensure_future(owned.watch())

    def fault(_commands: list[Command[object]]) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_ledger, "take", fault)
        found = await asyncio.gather(owned.ping(), owned.claim("other", 60), return_exceptions=True)
    assert [type(error) for error in found] == [StoreError, StoreError]
    with pytest.raises(StoreDiedError, match=r"its writer thread ended by MemoryError\(\); restart the daemon"):
        await watching
    with pytest.raises(StoreError, match="its writer thread has ended"):
        await owned.ping()
    assert StoreDiedError.exit_code is ExitCode.FAILURE
    await owned.close()
    assert not tries(sqlite_path)


async def test_a_writer_thread_that_dies_at_the_close_fails_every_call(
    owned: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is not answered yet when the store is closed gets an error too."""

    def fault(_commands: list[Command[object]]) -> None:
        raise MemoryError

    monkeypatch.setattr(sqlite_ledger, "take", fault)
    calling = asyncio.ensure_future(owned.ping())
    await asyncio.sleep(0)
    await owned.close()
    with pytest.raises(StoreError, match="its writer thread ended"):
        await asyncio.wait_for(calling, 5)


async def test_watching_ends_with_the_store(owned: SqliteLedger) -> None:
    """A store that is closed in order has not died."""
    watching = asyncio.ensure_future(owned.watch())
    await asyncio.sleep(0)
    await owned.close()
    await watching


async def test_how_long_a_call_takes_is_known_meanwhile(owned: SqliteLedger, sqlite_path: Path) -> None:
    """``busy_s`` grows while a call waits for the disk, and is 0 afterwards."""
    assert not owned.busy_s()
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(owned.ping())
        await asyncio.sleep(0.2)
        assert 0.1 < owned.busy_s() < 5
        other.execute("ROLLBACK")
    await waiting
    assert not owned.busy_s()
    await owned.close()
