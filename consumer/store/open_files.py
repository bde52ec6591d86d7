"""See that a database and its companions are still the files that were opened, and whole.

SQLite keeps writing into a file that was removed, replaced or cut off: what it writes then is lost, or damages what is
there. Looked at before each batch, by name, which costs 7 us.

The companions are ``-wal``, the write-ahead log, and ``-shm``, its index, which all processes map. How long both files
must be at least is written in them: the page count in the database's header, the last valid frame in the index.

See sqlite.org/fileformat2.html (database header, 1.3; write-ahead log, 4.1), sqlite.org/walformat.html (wal-index, 2).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_DATABASE_HEADER: Final = struct.Struct(">16xH6xII60xI")
"""Page size (1 for 64 KiB), change counter, page count, and the change counter for which the page count is valid."""
_INDEX_HEADER: Final = struct.Struct("=12xB1xHI76xI")
"""Whether it is valid, page size (1 for 64 KiB), the last frame, and behind two copies of these: frames folded back."""
_ONE_COPY: Final = 48
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INDEX_BYTES: Final = 32_768
"""The index grows by pieces of this size; a process that maps it beyond its end dies of SIGBUS."""

_Identity = tuple[int, int]


class OpenFiles:
    """The database from ``own`` on, and its companions from ``learn`` until ``forget``.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal_path = path.with_name(path.name + "-wal")
        self._index_path = path.with_name(path.name + "-shm")
        self._identities: dict[Path, _Identity] = {}
        self._database = -1
        self._index: int | None = None
        self._kept = False
        self._size = 0

    def own(self, database: int) -> None:
        """Note which file is the database.

        Args:
            database: Its descriptor, open for as long as this is used.
        """
        found = os.fstat(database)
        self._database = database
        self._identities = {self._path: (found.st_dev, found.st_ino)}

    def learn(self) -> None:
        """Note which companions are open, once SQLite has opened them.

        Raises:
            OSError: A file can't be looked at.
        """
        self._size = 0
        # They are missing where SQLite could not turn its log on.
        if (wal := _look(self._wal_path)) and (index := _look(self._index_path)):
            self._identities[self._wal_path] = wal.st_dev, wal.st_ino
            self._identities[self._index_path] = index.st_dev, index.st_ino
            # Closed after SQLite's own descriptor of it: to close one costs a process all its locks on the file.
            if self._index is None:
                self._index = os.open(self._index_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def keep(self) -> None:
        """Go on with these companions, since a connection to them stays open for good."""
        self._kept = True

    def forget(self) -> None:
        """Let go of the companions, after SQLite has closed or removed them."""
        if self._kept:
            return
        if self._index is not None:
            os.close(self._index)
        self._index = None
        self._identities.pop(self._wal_path, None)
        self._identities.pop(self._index_path, None)

    def problem(self) -> str | None:
        """What has happened to the files, such as ``FILE was removed``; ``None`` when nothing has."""
        sizes = []
        for path, identity in self._identities.items():
            found = _look(path)
            if found is None:
                return f"{path} was removed"
            if (found.st_dev, found.st_ino) != identity:
                return f"{path} was replaced by another file"
            sizes.append(found.st_size)
        if self._index is None:
            return None
        database_bytes, wal_bytes, index_bytes = sizes
        if index_bytes < _INDEX_BYTES:
            return f"{self._index_path} was truncated"
        return self._cut_off(database_bytes, wal_bytes, self._index)

    def may_be_closed(self) -> bool:
        """Whether SQLite may close them as usual.

        Its last connection folds the log back into the database and removes both companions by their names. That saves
        what a log holds that was removed; but it must not happen to files that others have put there, or to a database
        that is not whole.
        """
        missing = False
        for path, identity in self._identities.items():
            found = _look(path)
            if found is None and path != self._path:
                missing = True
            elif found is None or (found.st_dev, found.st_ino) != identity:
                return False
        return missing or self.problem() is None

    def _cut_off(self, database_bytes: int, wal_bytes: int, index: int) -> str | None:
        known = os.pread(index, _INDEX_HEADER.size, 0)
        valid, page_bytes, frames, folded = _INDEX_HEADER.unpack(known)
        needed = _WAL_HEADER_BYTES + frames * (_FRAME_HEADER_BYTES + _page_bytes(page_bytes)) if frames else 0
        if valid and wal_bytes < needed and known[:_ONE_COPY] == os.pread(index, _ONE_COPY, 0):
            # Another process that folds the log back, and empties it, changes the index first.
            return f"{self._wal_path} was truncated"
        header = os.pread(self._database, _DATABASE_HEADER.size, 0)
        if len(header) < _DATABASE_HEADER.size:
            return f"{self._path} was truncated"
        page_bytes, changes, pages, valid_for = _DATABASE_HEADER.unpack(header)
        # While the log is being folded back the header may be ahead of the file; but the file never shrinks then.
        settled = database_bytes < self._size or frames == folded
        if changes == valid_for and database_bytes < pages * _page_bytes(page_bytes) and settled:
            return f"{self._path} was truncated"
        self._size = database_bytes
        return None


def _page_bytes(written: int) -> int:
    return 65_536 if written == 1 else written


def _look(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - for each batch: Path.stat takes three times as long
    except OSError:
        return None
