"""The store's files: which daemon owns them, and whether they are still the ones it opened.

The file and its folder are made for their owner alone; ``access`` says when those of others are refused.

Ownership: two locks, both ``flock``, which the kernel releases when their process dies.

    FILE.lock  names its owner, and works on every file system
    FILE       the database's inode: the same under a hard link, on a bind mount and without FILE.lock

SQLite locks by ``fcntl``. On a local file system of Linux the two kinds are independent. Where they are not (network
file systems, macOS) a lock on the database would keep SQLite out: the start tests that, and then only FILE.lock is
used. A process that closes any descriptor of a file loses its ``fcntl`` locks on that file, so the database is opened
here once, before SQLite opens it, and closed after SQLite has closed it.

Identity: SQLite keeps writing into a file that was removed, replaced or truncated; what it writes then is lost or
damages what is there. So the files are checked by name before each batch, which costs 7 us. The companions are
``-wal``, the write-ahead log, and ``-shm``, its index, which all processes map. Both state how long a file must be at
least: the page count in the database's header, the last valid frame in the index.

See sqlite.org/fileformat2.html (database header, 1.3; write-ahead log, 4.1), sqlite.org/walformat.html (wal-index, 2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from consumer.errors import StoreBusyError, StoreError, StoreLostError, StoreUnsafeError

log = structlog.stdlib.get_logger(__name__)

_LOCK: Final = ".lock"
_MARK: Final = "a ledger was made here\n"
_UNUSED_BYTE: Final = 0x3FFF_FFFF  # a byte of the database that SQLite never locks: its own begin after it

_DATABASE_HEADER: Final = struct.Struct(">16sH10xI")
"""``_MAGIC``, page size (1 for 64 KiB), page count."""
_MAGIC: Final = b"SQLite format 3\0"
_INDEX_HEADER: Final = struct.Struct("=12xB1xHI28x")
"""Validity, page size (1 for 64 KiB), last frame."""
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INDEX_BYTES: Final = 32_768
"""The index grows by this; a process that reads its mapping beyond the file's end dies of SIGBUS."""

_Identity: TypeAlias = tuple[int, int]

_descriptors: dict[int, _Identity] = {}
"""Of the databases and locks that this process owns, or tries to."""


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each 0700 whatever the umask; raises ``OSError``."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def open_file(path: Path) -> int:
    """Open a file for reading and writing, made 0600 whatever the umask when missing; raises ``OSError``."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(descriptor, 0o600)
    return descriptor


def lost_ledger_refusal(path: Path, *, without_tables: bool = False) -> str | None:
    """Why no new ledger is made in a file that is missing, empty or without tables; ``None`` when one may be made.

    A new ledger where one was would handle jobs again that have ended. The lock file says that one was made; or a
    write-ahead log with content lies beside the file, which SQLite would remove.

    Args:
        path: The file, links resolved.
        without_tables: It has content, but no tables.
    """
    found = _stat(path)
    if found is not None and found.st_size and not without_tables:
        return None
    what = "is missing" if found is None else "has no tables" if found.st_size else "is empty"
    lock, wal = (path.with_name(path.name + ending) for ending in (_LOCK, "-wal"))
    in_wal = _stat(wal)
    if in_wal is not None and in_wal.st_size:
        why = f"{wal} holds a part of its ledger"
    elif _is_marked(lock):
        why = f"{lock} says that a ledger was made there"
    else:
        return None
    return (
        f"store {path}: the file {what}, but {why}; put the file back, or restore a backup; or remove {lock}"
        f" (and {wal}) to begin a new ledger, after which jobs that ended before may be handled again"
    )


def _is_marked(lock: Path) -> bool:
    try:
        return lock.read_text(encoding="utf-8", errors="replace").partition("\n")[2].startswith(_MARK)
    except OSError:
        return False


def hard_link_refusal(path: Path) -> str | None:
    """Why a store with further hard links is refused; ``None`` when it has none.

    SQLite names the write-ahead log after the database: under another name its content is missing, and writing there
    damages the file.
    """
    found = _stat(path)
    if found is None or found.st_nlink == 1:
        return None
    return (
        f"store {path}: the file has {found.st_nlink} names (hard links), and SQLite's write-ahead log belongs to one"
        f" of them; keep the one that the daemon used and remove the others"
        f" (find / -xdev -samefile {shlex.quote(str(path))})"
    )


def _close_in_child() -> None:
    """Close a forked child's copies, which would keep the locks for as long as the child runs.

    Not unlocked: parent and child share the locks. The child has no ``fcntl`` locks to lose.
    """
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)


class FileOwner:
    """Ownership of one database file, links resolved.

    The lock file beside it stays. Its first line is the owner's pid, the second one says that a ledger was made here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + _LOCK)
        self._descriptor: int | None = None
        self._locked: _Identity | None = None
        self._owns_inode = False
        self._database: int | None = None
        self.has_ledger = False  # was made here, as far as the lock file says

    def acquire(self) -> int:
        """Become the owner and make the file when it is missing. Idempotent.

        Returns:
            A descriptor of the database, open until ``release``; only this object closes it.

        Raises:
            StoreBusyError: Another process, or another object of this one, owns it.
            StoreLostError: The ledger that was made here is gone.
            StoreUnsafeError: The lock file is a link or another user's; or the database has several names.
            StoreError: A file can't be opened or locked.
        """
        if self._database is not None:
            return self._database
        with ExitStack() as opened:
            lock = self._lock()
            opened.callback(_close, lock)
            if problem := lost_ledger_refusal(self._path):
                raise StoreLostError(problem)
            database = self._open()
            opened.callback(_close, database)
            owns_inode = self._lock_inode(database)
            # Between opening and locking it may have been removed: no other process would find that lock.
            for descriptor, path in ((lock, self._lock_path), (database, self._path)):
                if _identity(path) != _identity_of(os.fstat(descriptor)):
                    raise StoreError(f"store {self._path}: {path} was removed while it was locked; start again")
            if problem := hard_link_refusal(self._path):
                raise StoreUnsafeError(problem)
            self.has_ledger = _is_marked(self._lock_path)
            self._keep(lock)
            self._owns_inode, self._database = owns_inode, database
            opened.pop_all()
        return database

    def mark(self) -> None:
        """Write into the lock file that a ledger was made here; call it once the tables are on disk. Idempotent."""
        if self._descriptor is not None and not self.has_ledger:
            self.has_ledger = True
            self._write(self._descriptor)

    def release(self) -> None:
        """Give up ownership, once SQLite has closed the database. Idempotent.

        The lock file stays: its removal would race with another owner.
        """
        for descriptor in (self._database, self._descriptor):
            if descriptor is not None:
                # A child forked without Python's hooks still has copies, which must not keep the lock.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                _close(descriptor)
        self._database = self._descriptor = None

    def check(self) -> None:
        """Check that the lock file is still the one that was locked; 2 us.

        While the database's own lock keeps other daemons out, a removed lock file is made and locked again. The check
        that finds this raises all the same, so that it is logged.

        Raises:
            StoreError: It is another file, or gone.
        """
        if self._locked == _identity(self._lock_path):
            return
        text = f"store {self._path}: its lock {self._lock_path} was removed or replaced while the daemon used it;"
        if not self._owns_inode:
            raise StoreError(f"{text} another daemon may have taken the store; stop all but one and restart that")
        old = self._descriptor
        self._keep(self._lock())
        if old is not None:
            _close(old)
        raise StoreError(f"{text} it was made again; the database itself stayed locked")

    def _keep(self, lock: int) -> None:
        self._write(lock)
        self._descriptor, self._locked = lock, _identity_of(os.fstat(lock))

    def _open(self) -> int:
        # To open and close an owned database again would cost SQLite its locks.
        if _identity(self._path) in _descriptors.values():
            raise self._busy(f"pid {os.getpid()}")
        try:
            return _registered(open_file(self._path))
        except OSError as error:
            raise StoreError(
                f"store {self._path}: {error.strerror}; give the daemon's user the right to read and write it"
            ) from error

    def _lock(self) -> int:
        try:
            # Not through a link: the pid would be written into its target.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = _registered(os.open(self._lock_path, flags, 0o600))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_ours() from None
            raise StoreError(
                f"store {self._path}: can't make its lock {self._lock_path}: {error.strerror};"
                " see that the folder exists and that the daemon's user may write there"
            ) from error
        with ExitStack() as opened:
            opened.callback(_close, descriptor)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
                raise self._not_ours()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").partition("\n")[0].strip()
                raise self._busy(f"pid {owner or 'unknown'}") from error
            except OSError as error:
                raise StoreError(f"store {self._path}: can't lock {self._lock_path}: {error.strerror}") from error
            opened.pop_all()
        return descriptor

    def _lock_inode(self, database: int) -> bool:
        """Lock the database itself; ``False`` where there is no such lock, or where it would keep SQLite out."""
        with suppress(OSError):
            try:
                fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._busy("under another name of the file; lsof or fuser shows its pid") from error
            with suppress(OSError):
                fcntl.lockf(database, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _UNUSED_BYTE)
                fcntl.lockf(database, fcntl.LOCK_UN, 1, _UNUSED_BYTE)
                return True
            fcntl.flock(database, fcntl.LOCK_UN)
        log.warning(
            "the file system can't lock the store beside SQLite; only the lock file keeps a second daemon out",
            store=str(self._path),
            lock=str(self._lock_path),
        )
        return False

    def _busy(self, owner: str) -> StoreBusyError:
        return StoreBusyError(
            f"store {self._path} belongs to another daemon ({owner}); stop that one, give this one a"
            " store of its own, or use PostgreSQL for several daemons on one queue"
        )

    def _not_ours(self) -> StoreUnsafeError:
        return StoreUnsafeError(
            f"store {self._path}: its lock {self._lock_path} is a link, or not a file of the daemon's user alone;"
            " remove it"
        )

    def _write(self, lock: int) -> None:
        text = f"{os.getpid()}\n{_MARK if self.has_ledger else ''}".encode()
        # The lock works without its text, as on a full disk.
        with suppress(OSError):
            os.fchmod(lock, 0o600)  # against the umask
            # Cut off last: a kill in between must not lose the mark.
            os.pwrite(lock, text, 0)
            os.ftruncate(lock, len(text))
            os.fsync(lock)


class OpenFiles:
    """The identity of the database from ``own`` on, and of its companions from ``learn`` until ``forget``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal_path = path.with_name(path.name + "-wal")
        self._index_path = path.with_name(path.name + "-shm")
        self._identities: dict[Path, _Identity] = {}
        self._database = -1
        self._index: int | None = None
        self._kept = False
        self._size = 0
        self._damaged: tuple[int, int] | None = None

    def own(self, database: int) -> None:
        """Note which file is the database; its descriptor stays open for as long as this object is used."""
        self._database = database
        self._identities = {self._path: _identity_of(os.fstat(database))}

    def learn(self) -> None:
        """Note which companions SQLite has opened; raises ``OSError``."""
        self._size = 0
        # They are missing where SQLite could not turn its log on.
        if (wal := _stat(self._wal_path)) and (index := _stat(self._index_path)):
            self._identities[self._wal_path] = _identity_of(wal)
            self._identities[self._index_path] = _identity_of(index)
            # Closed after SQLite's own descriptor: to close one costs a process its locks on the file.
            if self._index is None:
                self._index = os.open(self._index_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def distrust(self) -> None:
        """Note that the database is damaged: it has a problem until its content changes. Call it when it is closed."""
        if found := _stat(self._path):
            self._damaged = found.st_mtime_ns, found.st_size

    def keep(self) -> None:
        """Keep these companions for good: a connection to them is never closed."""
        self._kept = True

    def forget(self) -> None:
        """Forget the companions once SQLite has closed or removed them."""
        if self._kept:
            return
        if self._index is not None:
            os.close(self._index)
        self._index = None
        self._identities.pop(self._wal_path, None)
        self._identities.pop(self._index_path, None)

    def problem(self, *, without_companions: bool = False) -> str | None:
        """What happened to the files, such as ``FILE was removed``; ``None`` when they are whole.

        ``without_companions``: a removed companion is no problem.
        """
        sizes = []
        for path, identity in self._identities.items():
            found = _stat(path)
            if found is None:
                if without_companions and path != self._path:
                    continue
                return f"{path} was removed"
            if _identity_of(found) != identity:
                return f"{path} was replaced by another file"
            if self._damaged == (found.st_mtime_ns, found.st_size):
                return f"{path} was found damaged"
            sizes.append(found.st_size)
        if self._index is None or len(sizes) < len(self._identities):
            return None
        try:
            return self._truncation(self._index, *sizes)
        except OSError as error:
            return f"{self._path} could not be read ({error.strerror})"

    def _truncation(self, index: int, database_bytes: int, wal_bytes: int, index_bytes: int) -> str | None:
        """Which file is shorter than the database's header or the index says; raises ``OSError``."""
        if index_bytes < _INDEX_BYTES:
            return f"{self._index_path} was truncated"
        known, copy = (os.pread(index, _INDEX_HEADER.size, place) for place in (0, _INDEX_HEADER.size))
        valid, page_bytes, frames = _INDEX_HEADER.unpack(known)
        needed = _WAL_HEADER_BYTES + frames * (_FRAME_HEADER_BYTES + _page_bytes(page_bytes)) if frames else 0
        if valid and wal_bytes < needed and known == copy:
            # Another process that checkpoints and empties the log changes the index first.
            return f"{self._wal_path} was truncated"
        header = os.pread(self._database, _DATABASE_HEADER.size, 0)
        if len(header) < _DATABASE_HEADER.size:
            return f"{self._path} was truncated"
        magic, page_bytes, pages = _DATABASE_HEADER.unpack(header)
        if magic != _MAGIC:
            return f"{self._path} was overwritten"
        # During a checkpoint the header may be ahead of the file; but the file never shrinks then.
        if database_bytes < self._size and database_bytes < pages * _page_bytes(page_bytes):
            return f"{self._path} was truncated"
        self._size = database_bytes
        return None

    def may_be_closed(self) -> bool:
        """Whether SQLite may close the files as usual.

        Its last connection checkpoints the log into the database and removes both companions by name. That saves the
        content of a log that was removed. It must not happen to other files of these names, or to a database that is
        not whole.
        """
        return self.problem(without_companions=True) is None


def _page_bytes(written: int) -> int:
    return 65_536 if written == 1 else written


def _registered(descriptor: int) -> int:
    _descriptors[descriptor] = _identity_of(os.fstat(descriptor))
    return descriptor


def _close(descriptor: int) -> None:
    del _descriptors[descriptor]
    os.close(descriptor)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - for each batch: Path.stat takes three times as long
    except OSError:
        return None


def _identity_of(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _identity(path: Path) -> _Identity | None:
    found = _stat(path)
    return None if found is None else _identity_of(found)
