"""Let one daemon at a time own a store's file, under whatever name, while other processes still read and write it.

Two locks, both ``flock``, which the kernel drops when their holder dies, however it dies:

    FILE.lock  names its holder, and works on every file system
    FILE       the database's own inode: the same under a hard link, on a bind mount and without FILE.lock

SQLite locks by ``fcntl``. On a local file system of Linux the two kinds don't see each other. Where they do (network
file systems, macOS) a lock on the database would keep SQLite itself out: that is tried at the start, and only FILE.lock
is left there.

``fcntl`` has a trap: a process that closes any descriptor of a file loses all its locks on that file. So the database
is opened here once, before SQLite opens it, and closed after SQLite has closed it.

Elsewhere: what ownership is good for, claims in memory (``store.sqlite_book``); whether the files are still the ones
that were opened (``store.open_files``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from consumer.errors import StoreBusyError, StoreError, StoreUnsafeError
from consumer.store.file_access import other_names, take_file

log = structlog.stdlib.get_logger(__name__)

_TRIES = 5
_UNUSED_BYTE: Final = 0x3FFF_FFFF
"""A byte of the database that SQLite never locks: its own begin behind it."""

_descriptors: set[int] = set()
_inodes: set[tuple[int, int]] = set()
"""The databases that this process owns: to open one again here, and close it, would cost SQLite its locks."""


def _let_go_in_child() -> None:
    """Close a forked child's copies: they would keep the lock for as long as the child lives, the daemon dead or not.

    Only closed, never unlocked: the lock belongs to parent and child together. The child has no ``fcntl`` locks.
    """
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()
    _inodes.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class Owner:
    """Ownership of one file.

    Args:
        path: The database's file, links resolved; the lock lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None
        self._locked: tuple[int, int] | None = None
        self._owns_inode = False
        self._database: int | None = None

    def take(self) -> int:
        """Become the owner, and make the file when it is missing; does nothing when we are.

        Returns:
            A descriptor of the database, open until ``let_go``; never to be closed by others.

        Raises:
            StoreBusyError: Another process, or another object of this one, is.
            StoreUnsafeError: The lock's file is a link, or another user's; or the database has several names.
            StoreError: A file can't be opened or locked.
        """
        if self._database is not None:
            return self._database
        for _ in range(_TRIES):
            database = self._open()
            try:
                if self._take(database):
                    self._database = database
                    return database
            except BaseException:
                self._close(database)
                raise
            self._close(database)
        raise StoreError(f"store {self._path}: it or {self._lock_path} keeps being removed while it is locked")

    def let_go(self) -> None:
        """Stop being the owner; does nothing when we are not. The lock's file stays: removing it would race.

        Call it only when SQLite has closed the database.
        """
        for descriptor in (self._database, self._descriptor):
            if descriptor is not None:
                # A child that was forked past Python still has copies: unlocked, they keep nobody out.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                self._close(descriptor)
        self._database = self._descriptor = None

    def check(self) -> None:
        """See that FILE.lock is still the one that was locked; 2 us.

        A new one is made and locked in the place of one that was removed, as long as the database's own lock keeps
        other daemons out. The call that finds this fails all the same, so that it is logged.

        Raises:
            StoreError: It is not.
        """
        if self._locked == _identity(self._lock_path):
            return
        told = f"store {self._path}: its lock {self._lock_path} was removed or replaced while the daemon used it;"
        if not self._owns_inode:
            raise StoreError(f"{told} another daemon may have taken the store; stop all but one and restart that")
        new, old = self._lock(), self._descriptor
        self._write_pid(new)
        self._hold(new)
        if old is not None:
            self._close(old)
        raise StoreError(f"{told} it was made again; the database itself stayed locked")

    def _take(self, database: int) -> bool:
        descriptor = self._lock()
        try:
            # Both may have been removed between our opening and our locking them: then the lock is of a file
            # that nobody else will ever find.
            still = _is_still(descriptor, self._lock_path) and _is_still(database, self._path)
            if still:
                self._owns_inode = self._lock_inode(database)
                self._refuse_other_names()
                self._write_pid(descriptor)
                self._hold(descriptor)
                found = os.fstat(database)
                _inodes.add((found.st_dev, found.st_ino))
                return True
        except BaseException:
            self._close(descriptor)
            raise
        self._close(descriptor)
        return False

    def _hold(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._descriptor, self._locked = descriptor, (found.st_dev, found.st_ino)

    def _open(self) -> int:
        if _identity(self._path) in _inodes:
            raise self._busy(str(os.getpid()))
        try:
            return _noted(take_file(self._path))
        except OSError as error:
            raise StoreError(
                f"store {self._path}: {error.strerror}; see that its directory exists and may be written"
            ) from error

    def _lock(self) -> int:
        try:
            # Never through a link: the process's number would be written into whatever it leads to.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = _noted(os.open(self._lock_path, flags, 0o600))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_ours() from None
            raise StoreError(
                f"store {self._path}: can't make its lock {self._lock_path}: {error.strerror};"
                " give the daemon's user the right to write in this directory"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            self._close(descriptor)
            raise self._not_ours()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            self._close(descriptor)
            raise self._busy(owner) from error
        except OSError as error:
            self._close(descriptor)
            raise StoreError(f"store {self._path}: can't lock {self._lock_path}: {error.strerror}") from error
        return descriptor

    def _lock_inode(self, database: int) -> bool:
        """Lock the database itself; ``False`` where such a lock would keep SQLite out."""
        try:
            fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._busy(f"{_holder(database)}, which has it under another name") from error
        except OSError as error:
            log.warning("the file system has no lock for the store itself", store=str(self._path), error=str(error))
            return False
        try:
            fcntl.lockf(database, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _UNUSED_BYTE)
        except OSError:
            fcntl.flock(database, fcntl.LOCK_UN)
            log.warning(
                "the file system mixes the store's lock with SQLite's; only the lock file keeps a second daemon out",
                store=str(self._path),
                lock=str(self._lock_path),
            )
            return False
        fcntl.lockf(database, fcntl.LOCK_UN, 1, _UNUSED_BYTE)
        return True

    def _refuse_other_names(self) -> None:
        if problem := other_names(self._path):
            raise StoreUnsafeError(problem)

    def _busy(self, owner: str) -> StoreBusyError:
        return StoreBusyError(
            f"store {self._path} belongs to another daemon (pid {owner}); stop that one, give this one a"
            " store of its own, or use PostgreSQL for several daemons on one queue"
        )

    def _not_ours(self) -> StoreUnsafeError:
        return StoreUnsafeError(
            f"store {self._path}: its lock {self._lock_path} is a link, or not a file of the daemon's user alone;"
            " remove it"
        )

    def _close(self, descriptor: int) -> None:
        _descriptors.discard(descriptor)
        found = os.fstat(descriptor)
        _inodes.discard((found.st_dev, found.st_ino))
        os.close(descriptor)

    def _write_pid(self, descriptor: int) -> None:
        try:
            os.fchmod(descriptor, 0o600)  # Whatever the umask took away.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # The lock holds without it, on a full disk too; only its refusal names no pid then.
            return


def _noted(descriptor: int) -> int:
    _descriptors.add(descriptor)
    return descriptor


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once a transaction: Path.stat takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_still(descriptor: int, path: Path) -> bool:
    found = os.fstat(descriptor)
    return _identity(path) == (found.st_dev, found.st_ino)


def _holder(descriptor: int) -> str:
    """The process that holds a ``flock``, as far as the system tells."""
    inode = os.fstat(descriptor).st_ino
    with suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 16242 fe:00:2146519 0 EOF
            words = line.split()
            if words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == inode:
                return words[4]
    return "unknown"
