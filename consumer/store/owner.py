"""Let one daemon at a time own a store's file, while other processes may still read and write it.

The lock is a ``flock`` on a file beside the database (``FILE.lock``): the kernel drops it when its holder
dies, however it dies, and SQLite's own locks stay free for the operators' commands.

Elsewhere: what ownership is good for, claims in memory (``store.sqlite_book``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from consumer.errors import StoreBusyError, StoreError, StoreUnsafeError

_TRIES = 5


class Owner:
    """Ownership of one file.

    Args:
        path: The database's file; the lock lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Become the owner; does nothing when we are.

        Raises:
            StoreBusyError: Another process, or another object of this one, is.
            StoreUnsafeError: The lock's file is a link, or somebody else's.
            StoreError: It can't be made.
        """
        if self._descriptor is not None:
            return
        for _ in range(_TRIES):
            descriptor = self._lock()
            # Somebody may have removed the file between our opening and our locking it: then the lock is of
            # a file that nobody else will ever find.
            if self._is_still(descriptor):
                self._write_pid(descriptor)
                self._descriptor = descriptor
                return
            os.close(descriptor)
        raise StoreError(f"store {self._path}: {self._lock_path} keeps being removed while it is locked")

    def let_go(self) -> None:
        """Stop being the owner; does nothing when we are not. The file stays: removing it would race."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> int:
        try:
            # Never through a link: the process's number would be written into whatever it leads to.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._lock_path, flags, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_ours() from None
            raise StoreError(
                f"store {self._path}: can't make its lock {self._lock_path}: {error.strerror};"
                " give the daemon's user the right to write in this directory"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            os.close(descriptor)
            raise self._not_ours()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreBusyError(
                f"store {self._path} belongs to another daemon (pid {owner}); stop that one, give this one a"
                " store of its own, or use PostgreSQL for several daemons on one queue"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"store {self._path}: can't lock {self._lock_path}: {error.strerror}") from error
        return descriptor

    def _not_ours(self) -> StoreUnsafeError:
        return StoreUnsafeError(
            f"store {self._path}: its lock {self._lock_path} is a link, or not a file of the daemon's user alone;"
            " remove it"
        )

    def _is_still(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def _write_pid(self, descriptor: int) -> None:
        try:
            os.fchmod(descriptor, 0o600)  # Whatever the umask took away.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # The lock holds without it, on a full disk too; only its refusal names no pid then.
            return
